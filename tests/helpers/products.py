"""Products in a traced program, and what the papers' counts add to them."""

import math

import flax.linen as nn
import jax
from jax.extend.core import jaxprs_in_params

from cffm_jax.models import layers
from cffm_jax.models.products import products as traced_products

__all__ = ["TIMES", "traced_elements", "traced_products"]


TIMES = {
    **dict.fromkeys((layers.Dense, layers.BatchNorm), 2),
    **dict.fromkeys((layers.DepthwiseConv, layers.PatchConv, nn.Conv, nn.LayerNorm), 1),
}
"""Layers -> how often an element of their result counts: biases and norms, see ``macs.ELEMENTWISE``."""


def traced_elements(function, *arguments) -> int:
    """``macs.ELEMENTWISE`` of the layers that a call runs, classifiers being convolutions."""
    total = 0

    def counted(call, positional, named, context):
        nonlocal total
        result, layer = call(*positional, **named), context.module
        if type(layer) in TIMES and getattr(layer, "use_bias", True):
            total += math.prod(result.shape) * (1 if "classifier" in layer.name else TIMES[type(layer)])
        return result

    with nn.intercept_methods(counted):
        jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    return total + _activations(jaxpr)


def _activations(jaxpr) -> int:
    """Elements of GELUs and ReLUs."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("erf", "erfc") or equation.params.get("name") == "relu":
            total += math.prod(equation.outvars[0].aval.shape)
        else:
            total += sum(map(_activations, jaxprs_in_params(equation.params)))
    return total
