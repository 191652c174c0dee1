"""Primitives that move numbers: shapes, slices, gathers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.extend.core import JaxprEqn

from cffm_jax.export.lowering.graph import Graph, Tensor, constant
from cffm_jax.export.lowering.lower import Lowering, Rule, Unsupported, integers, shape_and_type


def _broadcast(lowering: Lowering, equation: JaxprEqn, inputs: list[Tensor]) -> Tensor:
    """Only the shape is put down: operators of elements broadcast themselves."""
    x, shape, axes = inputs[0], equation.params["shape"], equation.params["broadcast_dimensions"]
    stored = [1] * len(shape)
    for axis, size in zip(axes, x.stored if x.stored else (), strict=bool(x.stored)):
        stored[axis] = size
    if x.constant is not None:
        return constant(x.constant.reshape(stored), shape)
    narrow = dataclasses.replace(x, shape=x.stored)
    return dataclasses.replace(lowering.graph.reshape(narrow, stored), shape=tuple(shape))


def _reshape(lowering: Lowering, equation: JaxprEqn, inputs: list[Tensor]) -> Tensor:
    if equation.primitive.name == "reshape" and equation.params["dimensions"] is not None:
        raise Unsupported("reshapes in another order")
    return lowering.graph.reshape(inputs[0], shape_and_type(equation)[0])


def _transpose(lowering: Lowering, equation: JaxprEqn, inputs: list[Tensor]) -> Tensor:
    return lowering.graph.transpose(inputs[0], equation.params["permutation"])


def cut(graph: Graph, x: Tensor, begins: Sequence[int], ends: Sequence[int], strides: Sequence[int]) -> Tensor:
    """Slices the axes that need it: not those along which all numbers are the same."""
    shape = tuple(-(-(end - begin) // stride) for begin, end, stride in zip(begins, ends, strides))
    axes = [i for i, stored in enumerate(x.stored) if stored > 1 and shape[i] != stored or strides[i] < 0]
    if not axes:
        return dataclasses.replace(x, shape=shape)
    begin, end, stride = (integers(*(values[axis] for axis in axes)) for values in (begins, ends, strides))
    stored = [shape[i] if i in axes else size for i, size in enumerate(x.stored)]
    return dataclasses.replace(
        graph.add("Slice", [x, begin, end, integers(*axes), stride], stored, x.dtype), shape=shape
    )


def _slice(lowering: Lowering, equation: JaxprEqn, inputs: list[Tensor]) -> Tensor:
    begins, ends = equation.params["start_indices"], equation.params["limit_indices"]
    return cut(lowering.graph, inputs[0], begins, ends, equation.params["strides"] or [1] * len(begins))


def _split(lowering: Lowering, equation: JaxprEqn, inputs: list[Tensor]) -> list[Tensor]:
    sizes, axis = equation.params["sizes"], equation.params["axis"]
    outputs = [shape_and_type(equation, at) for at in range(len(sizes))]
    return lowering.graph.add_several("Split", [lowering.graph.whole(inputs[0]), integers(*sizes)], outputs, axis=axis)


def _concatenate(lowering: Lowering, equation: JaxprEqn, inputs: list[Tensor]) -> Tensor:
    graph, axis = lowering.graph, equation.params["dimension"]
    shape, dtype = shape_and_type(equation)
    return graph.add("Concat", map(graph.whole, inputs), shape, dtype, axis=axis)


def _stack(lowering: Lowering, equation: JaxprEqn, inputs: list[Tensor]) -> Tensor:
    graph, axis = lowering.graph, equation.params["axis"]
    shape, dtype = shape_and_type(equation)
    one = (*shape[:axis], 1, *shape[axis + 1 :])
    return graph.add("Concat", [graph.reshape(each, one) for each in inputs], shape, dtype, axis=axis)


def _pad(lowering: Lowering, equation: JaxprEqn, inputs: list[Tensor]) -> Tensor:
    graph, (x, filler) = lowering.graph, inputs
    low, high, interior = zip(*((int(a), int(b), int(c)) for a, b, c in equation.params["padding_config"]))
    if any(interior):
        raise Unsupported("pads between numbers")
    shape, dtype = shape_and_type(equation)
    begins, ends = [max(0, -each) for each in low], [size - max(0, -each) for size, each in zip(x.shape, high)]
    x = cut(graph, x, begins, ends, [1] * len(begins))
    pads = [max(0, each) for each in (*low, *high)]
    return graph.add("Pad", [x, integers(*pads), filler], shape, dtype) if any(pads) else x


def _dynamic_slice(lowering: Lowering, equation: JaxprEqn, inputs: list[Tensor]) -> Tensor:
    graph, (x, *starts) = lowering.graph, inputs
    sizes = equation.params["slice_sizes"]
    for axis, (start, size) in enumerate(zip(starts, sizes)):
        if x.shape[axis] == size:
            continue
        start = _clamped(graph, start, x.shape[axis] - size)
        shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
        end = graph.add("Add", [start, integers(size)], (1,), np.int64)
        x = graph.add("Slice", [graph.whole(x), start, end, integers(axis)], shape, x.dtype)
    return x


def _clamped(graph: Graph, start: Tensor, most: int) -> Tensor:
    """i64[1] of a scalar: at least 0 and at most so much."""
    return _within(graph, graph.reshape(graph.cast(start, np.int64), (1,)), most)


def _dynamic_update(lowering: Lowering, equation: JaxprEqn, inputs: list[Tensor]) -> Tensor:
    """Along the first axis: rows are written by their numbers."""
    graph, (x, new, *starts) = lowering.graph, inputs
    if any(a != b for a, b in zip(x.shape[1:], new.shape[1:])):
        raise Unsupported("writes a part of another axis than the first")
    count = new.shape[0]
    start = _clamped(graph, starts[0], x.shape[0] - count)
    rows = graph.add("Add", [start, integers(*range(count))], (count,), np.int64) if count > 1 else start
    index = graph.reshape(rows, (count, 1))
    return graph.add("ScatterND", [graph.whole(x), index, graph.whole(new)], x.shape, x.dtype)


def _within(graph: Graph, index: Tensor, last: int) -> Tensor:
    """Places of at least 0 and at most ``last``."""
    if index.constant is not None:
        return constant(np.clip(index.constant, 0, last), index.shape)
    limits = [constant(index.dtype.type(limit)) for limit in (0, last)]
    return graph.add("Clip", [graph.whole(index), *limits], index.shape, index.dtype)


def _gather(lowering: Lowering, equation: JaxprEqn, inputs: list[Tensor]) -> Tensor:
    """Along one axis, or of any slices by their flat places."""
    graph, (x, index) = lowering.graph, inputs
    numbers, sizes, mode = (equation.params[key] for key in ("dimension_numbers", "slice_sizes", "mode"))
    if mode not in (jax.lax.GatherScatterMode.CLIP, jax.lax.GatherScatterMode.PROMISE_IN_BOUNDS):
        raise Unsupported("gathers with a value for what lies outside")
    shape, _ = shape_and_type(equation)
    axes, offset = numbers.start_index_map, list(numbers.offset_dims)
    of_index = [i for i in range(len(shape)) if i not in offset]
    lasts = [x.shape[axis] - sizes[axis] for axis in axes]
    clip = mode == jax.lax.GatherScatterMode.CLIP
    (axis, *others) = axes
    if not others and numbers.collapsed_slice_dims == axes and sizes == (*x.shape[:axis], 1, *x.shape[axis + 1 :]):
        places = graph.reshape(index, index.shape[:-1])
        places = _within(graph, places, lasts[0]) if clip else places
        result = _at(graph, x, places, axis)
        # ONNX puts the index's axes in the place of the axis, JAX where it says.
        here = [*offset[:axis], *of_index, *offset[axis:]]
    else:
        result = _slices(graph, x, index, equation, lasts if clip else None)
        here = [*of_index, *offset]
    return graph.transpose(result, np.argsort(here).tolist())


def _at(graph: Graph, x: Tensor, places: Tensor, axis: int) -> Tensor:
    shape = (*x.shape[:axis], *places.shape, *x.shape[axis + 1 :])
    return graph.add("Gather", [graph.whole(x), graph.whole(places)], shape, x.dtype, axis=axis)


def _slices(graph: Graph, x: Tensor, index: Tensor, equation: JaxprEqn, lasts: list[int] | None) -> Tensor:
    """The index's axes, then those of a slice: from each number's place in the flat array."""
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    strides = [math.prod(x.shape[axis + 1 :]) for axis in range(len(x.shape))]
    lead = index.shape[:-1]
    flat = constant(np.zeros((1,) * len(lead), np.int32), lead)
    for i, axis in enumerate(numbers.start_index_map):
        begins, ends = [0] * len(lead) + [i], [*lead, i + 1]
        start = graph.reshape(cut(graph, graph.cast(index, np.int32), begins, ends, [1] * len(ends)), lead)
        start = _within(graph, start, lasts[i]) if lasts else start
        start = graph.elementwise("Mul", [start, constant(np.int32(strides[axis]))], np.int32, lead)
        flat = graph.elementwise("Add", [flat, start], np.int32, lead)
    for axis, at in zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True):
        steps = np.arange(lead[at], dtype=np.int32) * strides[axis]
        steps = constant(steps.reshape([-1 if i == at else 1 for i in range(len(lead))]), lead)
        flat = graph.elementwise("Add", [flat, steps], np.int32, lead)
    kept = [i for i in range(len(sizes)) if i not in (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)]
    within = sum(
        (np.arange(sizes[axis], dtype=np.int32) * strides[axis]).reshape([-1 if i == axis else 1 for i in kept])
        for axis in kept
    )
    slices = tuple(sizes[axis] for axis in kept)
    shape = (*lead, *slices)
    flat = graph.reshape(flat, (*lead, *(1,) * len(kept)))
    offsets = constant(np.asarray(within, np.int32).reshape((1,) * len(lead) + slices))
    flat = graph.elementwise("Add", [flat, offsets], np.int32, shape)
    return _at(graph, graph.reshape(x, (-1,)), flat, 0)


RULES: dict[str, Rule] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update,
    "expand_dims": _reshape,
    "gather": _gather,
    "pad": _pad,
    "reshape": _reshape,
    "slice": _slice,
    "split": _split,
    "squeeze": _reshape,
    "stack": _stack,
    "transpose": _transpose,
}
