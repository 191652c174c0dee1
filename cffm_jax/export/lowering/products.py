"""Primitives of products, and pooling.

Dimension key: N images, H W sides of a map, C channels, F channels of the result, K kernel side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn

from cffm_jax.export.lowering.elements import like
from cffm_jax.export.lowering.graph import Graph, Tensor
from cffm_jax.export.lowering.lower import Lowering, Rule, Unsupported, shape_and_type


def _dot_general(lowering: Lowering, equation: JaxprEqn, inputs: list[Tensor]) -> Tensor:
    graph, (left, right) = lowering.graph, map(lowering.graph.whole, inputs)
    (contract_left, contract_right), (batch_left, batch_right) = equation.params["dimension_numbers"]
    shape, dtype = shape_and_type(equation)
    free_left = [i for i in range(len(left.shape)) if i not in (*contract_left, *batch_left)]
    free_right = [i for i in range(len(right.shape)) if i not in (*contract_right, *batch_right)]
    if not batch_left and len(contract_left) == 1 and len(left.shape) == 2 and len(right.shape) > 2:
        # MatMul broadcasts a matrix on the left: the axes of the right stay where they are.
        *others, last = free_right
        if contract_right[0] == last - 1 and last == len(right.shape) - 1:
            matrix = graph.transpose(left, (*free_left, *contract_left))
            between = (*(right.shape[i] for i in others), matrix.shape[0], right.shape[last])
            result = graph.add("MatMul", [matrix, right], between, dtype)
            rank = len(between)
            return graph.transpose(result, (rank - 2, *range(rank - 2), rank - 1))
    if not batch_left and len(contract_left) == 1 and contract_left[0] == len(left.shape) - 1 and len(right.shape) == 2:
        return graph.add("MatMul", [left, graph.transpose(right, (*contract_right, *free_right))], shape, dtype)

    def sizes(x: Tensor, axes: Sequence[int]) -> list[int]:
        return [x.shape[axis] for axis in axes]

    left_turned = graph.transpose(left, (*batch_left, *free_left, *contract_left))
    right_turned = graph.transpose(right, (*batch_right, *contract_right, *free_right))
    batch, summed = sizes(left, batch_left), math.prod(sizes(left, contract_left))
    rows, columns = math.prod(sizes(left, free_left)), math.prod(sizes(right, free_right))
    a = graph.reshape(left_turned, (*batch, rows, summed))
    b = graph.reshape(right_turned, (*batch, summed, columns))
    return graph.reshape(graph.add("MatMul", [a, b], (*batch, rows, columns), dtype), shape)


def convolved(
    graph: Graph, x: Tensor, kernel: Tensor, shape: Sequence[int], bias: Tensor | None = None, **attributes: Any
) -> Tensor:
    """[N, H, W, C] with filters [F, C / groups, K, K] to the shape [N, H', W', F]."""
    n, h, w, c = shape
    inputs = [graph.transpose(x, (0, 3, 1, 2)), graph.whole(kernel), *([bias] if bias else [])]
    return graph.transpose(graph.add("Conv", inputs, (n, c, h, w), x.dtype, **attributes), (0, 2, 3, 1))


def _convolution(lowering: Lowering, equation: JaxprEqn, inputs: list[Tensor]) -> Tensor:
    parameters, (x, kernel) = equation.params, inputs
    numbers = parameters["dimension_numbers"]
    pads, of_maps = parameters["padding"], {numbers.lhs_spec, numbers.out_spec} == {(0, 3, 1, 2)}
    plain = {*parameters["lhs_dilation"], parameters["batch_group_count"]} == {1} and np.min(pads) >= 0
    if not (of_maps and plain):
        raise Unsupported("convolves other than maps")
    return convolved(
        lowering.graph, x, lowering.graph.transpose(kernel, numbers.rhs_spec), shape_and_type(equation)[0],
        strides=parameters["window_strides"], dilations=parameters["rhs_dilation"],
        pads=[pads[0][0], pads[1][0], pads[0][1], pads[1][1]], group=parameters["feature_group_count"],
    )  # fmt: skip


def _windows(kind: str) -> Rule:
    """Pooling of [N, H, W, C]."""

    def rule(lowering: Lowering, equation: JaxprEqn, inputs: list[Tensor]) -> Tensor:
        parameters, graph = equation.params, lowering.graph
        window, strides, pads = (parameters[key] for key in ("window_dimensions", "window_strides", "padding"))
        dilations = (*parameters["base_dilation"], *parameters["window_dilation"])
        of_maps = len(window) == 4 and all(
            (window[axis], strides[axis], *pads[axis]) == (1, 1, 0, 0) for axis in (0, 3)
        )
        if not of_maps or set(dilations) != {1} or np.min(pads) < 0:
            raise Unsupported("pools other than maps")
        (n, h, w, c), dtype = shape_and_type(equation)
        x = graph.transpose(inputs[0], (0, 3, 1, 2))
        attributes: dict[str, Any] = {"kernel_shape": window[1:3], "strides": strides[1:3]}
        attributes["pads"] = [pads[1][0], pads[2][0], pads[1][1], pads[2][1]]
        if kind == "AveragePool":
            attributes["count_include_pad"] = 1
        result = graph.add(kind, [x], (n, c, h, w), dtype, **attributes)
        if kind == "AveragePool":
            result = graph.elementwise("Mul", [result, like(result, math.prod(window))], dtype, result.shape)
        return graph.transpose(result, (0, 2, 3, 1))

    return rule


RULES: dict[str, Rule] = {
    "conv_general_dilated": _convolution,
    "dot_general": _dot_general,
    "reduce_window_max": _windows("MaxPool"),
    "reduce_window_sum": _windows("AveragePool"),
}
