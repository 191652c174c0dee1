"""Primitives of single numbers, which broadcast, and what reduces an axis."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn

from cffm_jax.export.lowering.graph import Tensor, constant
from cffm_jax.export.lowering.lower import FOLDED, Lowering, Rule, Unsupported, integers, shape_and_type

Elements = Callable[[Lowering, JaxprEqn, list[Tensor]], Tensor]
"""A rule with one result."""


def elements(kind: str, **attributes: Any) -> Elements:
    def rule(lowering: Lowering, equation: JaxprEqn, inputs: list[Tensor]) -> Tensor:
        shape, dtype = shape_and_type(equation)
        return lowering.graph.elementwise(kind, inputs, dtype, shape, **attributes)

    return rule


def _multiply(lowering: Lowering, equation: JaxprEqn, inputs: list[Tensor]) -> Tensor:
    """Not by 1."""
    shape, dtype = shape_and_type(equation)
    for one, other in (inputs, inputs[::-1]):
        if other.constant is not None and one.shape == shape and (other.constant == 1).all():
            return one
    return lowering.graph.elementwise("Mul", inputs, dtype, shape)


def _add(lowering: Lowering, equation: JaxprEqn, inputs: list[Tensor]) -> Tensor:
    """Constants one after the other are added up first: large ones by the engine, as it loads the
    graph."""
    graph, (shape, dtype) = lowering.graph, shape_and_type(equation)
    x, y = inputs if inputs[0].constant is None else inputs[::-1]
    if y.constant is None or x.shape != shape:
        return graph.elementwise("Add", inputs, dtype, shape)
    if not y.constant.any():
        return x
    source, before = graph.sums.get(x.name, (x, None))
    if before is None or before.constant is None:
        total, source = y, x
    elif math.prod(np.broadcast_shapes(before.stored, y.stored)) <= FOLDED:
        total = constant(before.constant + y.constant, shape)
    else:
        total = graph.elementwise("Add", [before, y], dtype, shape)
    result = graph.elementwise("Add", [source, total], dtype, shape)
    graph.sums[result.name] = source, total
    return result


def _subtract(lowering: Lowering, equation: JaxprEqn, inputs: list[Tensor]) -> Tensor:
    """Of a constant by adding: runtimes make that part of the product before it."""
    x, y = inputs
    if y.constant is None or y.dtype.kind != "f":
        return elements("Sub")(lowering, equation, inputs)
    return _add(lowering, equation, [x, constant(-y.constant, y.shape)])


def _composed(function: Callable[..., Tensor]) -> Rule:
    """Of several operators, by ``function(apply, *inputs)``."""

    def rule(lowering: Lowering, equation: JaxprEqn, inputs: list[Tensor]) -> Tensor:
        shape, dtype = shape_and_type(equation)

        def apply(kind: str, *operands: Tensor, dtype: Any = dtype, **attributes: Any) -> Tensor:
            return lowering.graph.elementwise(kind, operands, dtype, shape, **attributes)

        return function(apply, *inputs)

    return rule


def like(x: Tensor, value: float) -> Tensor:
    return constant(np.array(value, x.dtype))


def _power(lowering: Lowering, equation: JaxprEqn, inputs: list[Tensor]) -> Tensor:
    (x,), y = inputs, equation.params["y"]
    return lowering.graph.elementwise("Pow", [x, like(x, y)], x.dtype, x.shape)


def _select(lowering: Lowering, equation: JaxprEqn, inputs: list[Tensor]) -> Tensor:
    which, *cases = inputs
    if len(cases) != 2:
        raise Unsupported("selects of more than two")
    shape, dtype = shape_and_type(equation)
    if which.constant is not None and which.constant.all():
        return cases[1]
    if which.constant is not None and not which.constant.any():
        return cases[0]
    which = lowering.graph.cast(which, bool)
    return lowering.graph.elementwise("Where", [which, cases[1], cases[0]], dtype, shape)


def _convert(lowering: Lowering, equation: JaxprEqn, inputs: list[Tensor]) -> Tensor:
    return lowering.graph.cast(inputs[0], equation.params["new_dtype"])


def _round(lowering: Lowering, equation: JaxprEqn, inputs: list[Tensor]) -> Tensor:
    if int(equation.params["rounding_method"]) != 1:
        raise Unsupported("rounds away from zero")
    return elements("Round")(lowering, equation, inputs)


def _same(lowering: Lowering, equation: JaxprEqn, inputs: list[Tensor]) -> list[Tensor]:
    return inputs


def _reduce(kind: str) -> Rule:
    def rule(lowering: Lowering, equation: JaxprEqn, inputs: list[Tensor]) -> Tensor:
        graph, x, axes = lowering.graph, inputs[0], equation.params["axes"]
        shape, dtype = shape_and_type(equation)
        if not axes:
            return x
        x = graph.whole(x)
        numbers = graph.cast(x, np.int32) if dtype.kind == "b" else x
        return graph.cast(graph.add(kind, [numbers, integers(*axes)], shape, numbers.dtype, keepdims=0), dtype)

    return rule


def _arg(kind: str) -> Rule:
    def rule(lowering: Lowering, equation: JaxprEqn, inputs: list[Tensor]) -> Tensor:
        graph, (axis,) = lowering.graph, equation.params["axes"]
        shape, dtype = shape_and_type(equation)
        return graph.cast(graph.add(kind, [graph.whole(inputs[0])], shape, np.int64, axis=axis, keepdims=0), dtype)

    return rule


def _cumsum(lowering: Lowering, equation: JaxprEqn, inputs: list[Tensor]) -> Tensor:
    graph, x = lowering.graph, lowering.graph.whole(inputs[0])
    axis = constant(np.int64(equation.params["axis"]))
    return graph.add("CumSum", [x, axis], x.shape, x.dtype, reverse=int(equation.params["reverse"]))


def _logical(kind: str) -> Elements:
    def rule(lowering: Lowering, equation: JaxprEqn, inputs: list[Tensor]) -> Tensor:
        flags = inputs[0].dtype.kind == "b"
        return elements(kind if flags else f"Bitwise{kind}")(lowering, equation, inputs)

    return rule


def _larger(lowering: Lowering, equation: JaxprEqn, inputs: list[Tensor]) -> Tensor:
    """Than zero it is a ReLU."""
    x, y = inputs
    by_zero = y.constant is not None and not y.constant.any() and x.shape == shape_and_type(equation)[0]
    kind, inputs = ("Relu", [x]) if by_zero and x.dtype.kind == "f" else ("Max", inputs)
    return elements(kind)(lowering, equation, inputs)


def _log1p(apply: Callable[..., Tensor], x: Tensor) -> Tensor:
    """Of small numbers, of which 1 + x keeps few digits, corrected by what it keeps."""
    y = apply("Add", x, _one(x))
    kept = apply("Sub", y, _one(x))
    corrected = apply("Div", apply("Mul", apply("Log", y), x), kept)
    is_lost = apply("Equal", kept, like(x, 0.0), dtype=bool)
    return apply("Where", is_lost, x, corrected)


def _one(x: Tensor) -> Tensor:
    return like(x, 1.0)


RULES: dict[str, Rule] = {
    "abs": elements("Abs"),
    "add": _add,
    "and": _logical("And"),
    "argmax": _arg("ArgMax"),
    "argmin": _arg("ArgMin"),
    "ceil": elements("Ceil"),
    "clamp": _composed(lambda apply, low, x, high: apply("Min", apply("Max", x, low), high)),
    "convert_element_type": _convert,
    "copy": _same,
    "copy_p": _same,
    "cos": elements("Cos"),
    "cumsum": _cumsum,
    "div": elements("Div"),
    "eq": elements("Equal"),
    "erf": elements("Erf"),
    "erfc": _composed(lambda apply, x: apply("Sub", _one(x), apply("Erf", x))),
    "exp": elements("Exp"),
    "floor": elements("Floor"),
    "ge": elements("GreaterOrEqual"),
    "gt": elements("Greater"),
    "integer_pow": _power,
    "le": elements("LessOrEqual"),
    "log": elements("Log"),
    "log1p": _composed(_log1p),
    "logistic": elements("Sigmoid"),
    "lt": elements("Less"),
    "max": _larger,
    "min": elements("Min"),
    "mul": _multiply,
    "ne": _composed(lambda apply, x, y: apply("Not", apply("Equal", x, y))),
    "neg": elements("Neg"),
    "not": _logical("Not"),
    "optimization_barrier": _same,
    "or": _logical("Or"),
    "pow": elements("Pow"),
    "reduce_and": _reduce("ReduceMin"),
    "reduce_max": _reduce("ReduceMax"),
    "reduce_min": _reduce("ReduceMin"),
    "reduce_or": _reduce("ReduceMax"),
    "reduce_sum": _reduce("ReduceSum"),
    "rem": elements("Mod", fmod=1),
    "round": _round,
    "rsqrt": _composed(lambda apply, x: apply("Div", _one(x), apply("Sqrt", x))),
    "select_n": _select,
    "sign": elements("Sign"),
    "sin": elements("Sin"),
    "sqrt": elements("Sqrt"),
    "square": _composed(lambda apply, x: apply("Mul", x, x)),
    "stop_gradient": _same,
    "sub": _subtract,
    "tanh": elements("Tanh"),
}
