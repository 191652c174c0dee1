"""The functions of ``models.operators`` in ONNX's: what engines have a fast program for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from cffm_jax.export.lowering.graph import Graph, Tensor
from cffm_jax.export.lowering.lower import Lowering, Rule, integers
from cffm_jax.export.lowering.products import convolved
from cffm_jax.inference import argmax
from cffm_jax.models.operators import operator

_FEW = 16
"""Channels of a frame at most."""


@operator
def layer_normalization(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """``nn.LayerNorm`` of the last axis with a variance of two passes."""
    centred = x - jnp.mean(x, -1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), -1, keepdims=True) + epsilon) * scale + bias


def with_layer_norms(call: Any, positional: Any, named: Any, context: Any) -> Any:
    """An interceptor of flax's methods: each LayerNorm is one operator."""
    module = context.module
    usual = type(module) is nn.LayerNorm and module.use_scale and module.use_bias and module.reduction_axes == -1
    if context.method_name != "__call__" or not usual or module.feature_axes != -1:
        return call(*positional, **named)
    parameters = module.variables["params"]
    return layer_normalization(positional[0], parameters["scale"], parameters["bias"], module.epsilon)


def _settings(equation: JaxprEqn) -> dict[str, Any]:
    """What a function is given beside arrays, by name."""
    return dict(equation.params["static"])


def _layer_normalization(lowering: Lowering, equation: JaxprEqn, inputs: list[Tensor]) -> Tensor:
    graph, (x, *of_channels) = lowering.graph, map(lowering.graph.whole, inputs)
    return graph.add(
        "LayerNormalization", [x, *of_channels], x.shape, x.dtype, axis=-1, epsilon=_settings(equation)["epsilon"]
    )


def _softmax(lowering: Lowering, equation: JaxprEqn, inputs: list[Tensor]) -> Tensor:
    x = lowering.graph.whole(inputs[0])
    result = lowering.graph.add("Softmax", [x], x.shape, x.dtype, axis=-1)
    return lowering.graph.cast(result, _settings(equation)["dtype"])


def _gelu(lowering: Lowering, equation: JaxprEqn, inputs: list[Tensor]) -> Tensor:
    (x,) = inputs
    return lowering.graph.elementwise("Gelu", [x], x.dtype, x.shape)


def _depthwise(lowering: Lowering, equation: JaxprEqn, inputs: list[Tensor]) -> Tensor:
    graph, (x, kernel, bias) = lowering.graph, inputs
    side, _, channels = kernel.shape
    dilation = _settings(equation)["dilation"]
    filters = graph.reshape(graph.transpose(kernel, (2, 0, 1)), (channels, 1, side, side))
    return convolved(
        graph, x, filters, x.shape, graph.whole(bias),
        group=channels, pads=[side // 2 * dilation] * 4, strides=[1, 1], dilations=[dilation] * 2,
    )  # fmt: skip


def _resized(graph: Graph, x: Tensor, size: Sequence[int], axes: Sequence[int]) -> Tensor:
    shape = list(x.shape)
    for axis, length in zip(axes, size, strict=True):
        shape[axis] = length
    return graph.add(
        "Resize", [x, "", "", integers(*size)], shape, x.dtype,
        mode="linear", coordinate_transformation_mode="half_pixel", axes=list(axes),
    )  # fmt: skip


def _resize_bilinear(lowering: Lowering, equation: JaxprEqn, inputs: list[Tensor]) -> Tensor | None:
    """By its program where the numbers are few: frames are rounded to bytes afterwards, and a tie
    must go the same way. Else before a transposition: onnxruntime, which would move that behind it,
    loses the size on the way."""
    graph, (x,), size = lowering.graph, inputs, _settings(equation)["size"]
    if x.shape[-1] <= _FEW:
        return None
    if x.shape[1:3] == tuple(size):
        return x
    source, order = x.turned if x.turned and x.is_whole else (graph.whole(x), range(len(x.shape)))
    return graph.transpose(_resized(graph, source, size, [order[1], order[2]]), order)


def _segmentation_masks(lowering: Lowering, equation: JaxprEqn, inputs: list[Tensor]) -> Tensor:
    """As ``argmax.masks_by_class``: classes that can win nowhere are not resized."""
    graph, logits = lowering.graph, lowering.graph.whole(inputs[0])
    sizes = _settings(equation)
    n, *_, classes = logits.shape
    program = jax.make_jaxpr(lambda x: argmax._possible(x, sizes["input_size"], sizes["output_size"]))(
        jax.ShapeDtypeStruct(logits.shape, logits.dtype)
    )
    (possible,) = lowering.closed(program, [logits])
    places = graph.add("NonZero", [possible], (1, classes), np.int64)
    order = graph.add("Reshape", [places, integers(-1)], (classes,), np.int64)  # As many as there are.
    # By classes: a maximum over the first of two axes takes a third of the time in OpenVINO.
    planes = graph.transpose(graph.add("Gather", [logits, order], logits.shape, logits.dtype, axis=3), (0, 3, 1, 2))
    for size in (sizes["input_size"], sizes["output_size"]):
        planes = _resized(graph, planes, size, (2, 3)) if planes.shape[2:] != tuple(size) else planes
    best = graph.add("ArgMax", [planes], (n, *planes.shape[2:]), np.int64, axis=1, keepdims=0)
    return graph.add("Gather", [graph.cast(order, np.uint8), best], best.shape, np.uint8, axis=0)


OPERATORS: dict[str, Rule] = {
    "depthwise": _depthwise,
    "gelu": _gelu,
    "layer_normalization": _layer_normalization,
    "resize_bilinear": _resize_bilinear,
    "segmentation_masks": _segmentation_masks,
    "softmax": _softmax,
}
