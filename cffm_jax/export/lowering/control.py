"""Primitives of branches and loops."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn
from onnx import helper

from cffm_jax.export.lowering.graph import Graph, Tensor, constant, value_info
from cffm_jax.export.lowering.lower import Lowering, Rule, Unsupported, shape_and_type
from cffm_jax.export.lowering.shapes import cut

_LONGEST = 64
"""Steps of a loop that are written one after the other."""


def _cond(lowering: Lowering, equation: JaxprEqn, inputs: list[Tensor]) -> list[Tensor]:
    """An If, or of more branches several, one within the other."""
    which, *operands = inputs
    branches = equation.params["branches"]
    if which.constant is not None:
        return lowering.closed(branches[int(np.clip(which.constant, 0, len(branches) - 1))], operands)
    outputs = [shape_and_type(equation, i) for i in range(len(equation.outvars))]
    return _choose(lowering, which, branches, operands, outputs)


def _choose(
    lowering: Lowering, which: Tensor, branches: Sequence[ClosedJaxpr], operands: list[Tensor], outputs: list[Any]
) -> list[Tensor]:
    """The first branch for what is at most 0, the last for all that is larger than the others."""
    graph, (first, *others) = lowering.graph, branches
    if not others:
        return lowering.closed(first, operands)
    number = graph.cast(which, np.int32)
    is_first = graph.elementwise("LessOrEqual", [number, constant(np.int32(0))], bool, ())
    then, instead = (dataclasses.replace(lowering, graph=graph.branch()) for _ in range(2))
    fewer = instead.graph.elementwise("Sub", [number, constant(np.int32(1))], np.int32, ())
    given, other = then.closed(first, operands), _choose(instead, fewer, others, operands, outputs)
    branched = {"then_branch": _subgraph(then.graph, given), "else_branch": _subgraph(instead.graph, other)}
    return graph.add_several("If", [is_first], outputs, **branched)


def _subgraph(graph: Graph, results: Sequence[Tensor]) -> Any:
    """Results under names of their own, as a branch may give what it only reads."""
    outputs = []
    for each in results:
        each = graph.whole(each)
        outputs.append(graph.add("Identity", [each], each.shape, each.dtype))
    return helper.make_graph(graph.nodes, graph.new_name("branch"), [], [value_info(each) for each in outputs])


def _scan(lowering: Lowering, equation: JaxprEqn, inputs: list[Tensor]) -> list[Tensor]:
    """One step after the other."""
    graph, parameters = lowering.graph, equation.params
    length, consts, carried = parameters["length"], parameters["num_consts"], parameters["num_carry"]
    if not 0 < length <= _LONGEST:
        raise Unsupported(f"loops {length} times")
    fixed, carry, rows = inputs[:consts], inputs[consts : consts + carried], inputs[consts + carried :]
    found: list[list[Tensor]] = []
    order = range(length)[::-1] if parameters["reverse"] else range(length)
    for i in order:
        items = []
        for x in rows:
            strides = [1] * len(x.shape)
            one = cut(graph, x, [i, *[0] * (len(x.shape) - 1)], [i + 1, *x.shape[1:]], strides)
            items.append(graph.reshape(one, x.shape[1:]))
        results = lowering.closed(parameters["jaxpr"], [*fixed, *carry, *items])
        carry, each = results[:carried], results[carried:]
        found.append(each)
    found = found[::-1] if parameters["reverse"] else found
    stacked = []
    for column in zip(*found):
        shape = (length, *column[0].shape)
        parts = [graph.reshape(x, (1, *x.shape)) for x in column]
        stacked.append(graph.add("Concat", parts, shape, column[0].dtype, axis=0) if length > 1 else parts[0])
    return [*carry, *stacked]


RULES: dict[str, Rule] = {"cond": _cond, "scan": _scan}
