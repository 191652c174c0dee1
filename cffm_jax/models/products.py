"""Counts of a traced module: multiply-accumulates, and what the papers add to them.

The counts of the papers' own networks are written out (``macs``); those of the systems that they
compare with, which the papers do not count, are traced.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, jaxprs_in_params

from cffm_jax.models import layers

_PER_ELEMENT = {layers.BatchNorm: 2, layers.Dense: 2, nn.LayerNorm: 1}
"""What a layer's elements count beside its products, see ``macs.ELEMENTWISE``."""


class Counts(NamedTuple):
    """Multiply-accumulates; and elements, see ``macs.ELEMENTWISE``."""

    products: int
    elements: int


def counts(call: Callable[..., Any], *shapes: jax.ShapeDtypeStruct) -> Counts:
    """Counts of a call, such as ``lambda x: module.init_with_output(key, x)``, on arrays of these
    shapes. Nothing is computed."""
    depthwise = elements = 0

    def counted(call: Any, positional: Any, named: Any, context: Any) -> Any:
        nonlocal depthwise, elements
        result, layer = call(*positional, **named), context.module
        if context.method_name == "__call__":
            size = math.prod(result.shape) if hasattr(result, "shape") else 0
            elements += _PER_ELEMENT.get(type(layer), 0) * size
            # Shifted sums are no products that the program shows.
            depthwise += size * layer.side**2 if isinstance(layer, layers.DepthwiseConv) else 0
        return result

    with nn.intercept_methods(counted):
        jaxpr = jax.make_jaxpr(call)(*shapes).jaxpr
    return Counts(products(jaxpr) + depthwise, elements + _activations(jaxpr))


def products(jaxpr: Jaxpr) -> int:
    """Multiply-accumulates of the matrix products and convolutions in a traced program; of branches
    those of one, which are forms of the same (``by_platform``)."""
    total = 0
    for equation in jaxpr.eqns:
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        inner = [times * products(each) for each in jaxprs_in_params(equation.params)]
        total += max(inner, default=0) if equation.primitive.name == "cond" else sum(inner)
        shapes = [_shape(variable) for variable in (*equation.invars, *equation.outvars)]
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += math.prod(shapes[-1]) * math.prod(shapes[0][axis] for axis in contracted)
        elif equation.primitive.name == "conv_general_dilated":
            numbers = equation.params["dimension_numbers"]
            total += math.prod(shapes[-1]) * math.prod(shapes[1]) // shapes[1][numbers.rhs_spec[0]]
    return total


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _activations(jaxpr: Jaxpr) -> int:
    """Elements of ReLUs."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.params.get("name") in ("relu", "relu6"):
            total += sum(math.prod(_shape(variable)) for variable in equation.outvars)  # Of what is used.
        else:
            total += sum(map(_activations, jaxprs_in_params(equation.params)))
    return total


def encoder_counters(
    module: Callable[..., nn.Module],
) -> tuple[Callable[[Any, int, int, int], dict[str, int]], Callable[[Any, int, int], int]]:
    """``macs`` and ``elements`` of a ``Backbone`` whose encoder is traced."""

    def macs(size: Any, height: int, width: int, channels: int) -> dict[str, int]:
        return {"convolutions": _encoder_counts(module, size, height, width, channels).products}

    def elements(size: Any, height: int, width: int) -> int:
        return _encoder_counts(module, size, height, width, 3).elements

    return macs, elements


@functools.lru_cache(maxsize=64)
def _encoder_counts(module: Callable[..., nn.Module], size: Any, height: int, width: int, channels: int) -> Counts:
    """Counts of an encoder for a frame of height x width x channels."""
    encoder = module(size, size.norm_epsilons, 0.0, jnp.float32, parent=None)  # A method may ask.
    frame = jax.ShapeDtypeStruct((1, height, width, channels), jnp.float32)
    return counts(lambda frame: encoder.init_with_output(jax.random.key(0), frame)[0], frame)
