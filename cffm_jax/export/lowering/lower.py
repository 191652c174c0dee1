"""A traced program as nodes of ONNX: what is constant is computed, calls are followed, and all else
goes by rules, of a primitive or of a whole function."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from cffm_jax.export.lowering.graph import Graph, Tensor, constant

Rule = Callable[["Lowering", JaxprEqn, list[Tensor]], "Tensor | list[Tensor] | None"]
"""What an equation gives of its inputs. None, of a call: what its own program gives."""
FOLDED = 2**16
"""Numbers of a constant's size that are computed here whatever they are computed of; of more, only
where they are no more than those they come from: runtimes do the rest as they load the graph."""
_CALLS = ("jit", "pjit", "custom_jvp_call", "custom_vjp_call", "remat2", "checkpoint", "closed_call", "core_call")


def shape_and_type(equation: JaxprEqn, at: int = 0) -> tuple[tuple[int, ...], np.dtype]:
    """Of a result."""
    aval: Any = equation.outvars[at].aval
    return aval.shape, np.dtype(aval.dtype)


def integers(*values: int) -> Tensor:
    """A constant i64[n]: of shapes, axes, places."""
    return constant(np.array(values, np.int64))


class Unsupported(Exception):
    """What the program does and ONNX does not, in words."""


@dataclasses.dataclass
class Lowering:
    """Adds a program's nodes to a graph.

    Attributes:
      graph: to add to.
      primitives: rules by primitive.
      operators: rules by the names of functions that are ``models.operators``.
    """

    graph: Graph
    primitives: Mapping[str, Rule]
    operators: Mapping[str, Rule]

    def closed(self, program: ClosedJaxpr, inputs: Sequence[Tensor]) -> list[Tensor]:
        return self.program(program.jaxpr, [constant(np.asarray(each)) for each in program.consts], inputs)

    def program(self, jaxpr: Jaxpr, constants: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
        values: dict[Any, Tensor] = {}

        def read(atom: Any) -> Tensor:
            is_literal, aval = isinstance(atom, Literal), atom.aval
            return constant(np.asarray(atom.val, aval.dtype)) if is_literal else values[atom]

        values.update(zip(jaxpr.constvars, constants, strict=True))
        values.update(zip(jaxpr.invars, inputs, strict=True))
        root, place = self.graph.root, self.graph.root.place
        for equation in jaxpr.eqns:
            if not equation.outvars:  # What is left of a call whose result nobody reads.
                continue
            # Beside modules there are their methods, "CFFM.encode", and what einsum computes.
            scopes = str(equation.source_info.name_stack).split("/")
            root.place = (*place, *filter(str.isidentifier, scopes))
            results = self.equation(equation, [read(atom) for atom in equation.invars])
            for at, (variable, result) in enumerate(zip(equation.outvars, results, strict=True)):
                assert (result.shape, result.dtype) == shape_and_type(equation, at), (equation, result)
                values[variable] = result
        root.place = place
        return [read(atom) for atom in jaxpr.outvars]

    def equation(self, equation: JaxprEqn, inputs: list[Tensor]) -> list[Tensor]:
        name = equation.primitive.name
        if name == "operator" or name in _CALLS:
            rule = self.operators.get(equation.params["name"]) if name == "operator" else None
            found = rule(self, equation, inputs) if rule else None
            return self.closed(_inner(equation), inputs) if found is None else _listed(found)
        known = [each.constant for each in inputs if each.constant is not None]
        # What is broadcast stays as small as it is.
        if len(known) == len(inputs) and name != "broadcast_in_dim" and self._is_small(equation, known):
            arrays = [np.broadcast_to(array, each.shape) for array, each in zip(known, inputs, strict=True)]
            results = equation.primitive.bind(*map(jax.numpy.asarray, arrays), **equation.params)
            return [constant(each) for each in (results if equation.primitive.multiple_results else [results])]
        rule = self.primitives.get(name)
        found = rule(self, equation, inputs) if rule else None
        if found is None:
            raise Unsupported(f"computes {name}")
        return _listed(found)

    def _is_small(self, equation: JaxprEqn, known: Sequence[np.ndarray]) -> bool:
        if not known:  # Of nothing: numbers in a row.
            return True
        size = sum(math.prod(shape_and_type(equation, at)[0]) for at in range(len(equation.outvars)))
        return size <= max(FOLDED, *(array.size for array in known))


def _listed(found: Tensor | list[Tensor]) -> list[Tensor]:
    return found if isinstance(found, list) else [found]


def _inner(equation: JaxprEqn) -> ClosedJaxpr:
    """The program of a call."""
    for key in ("jaxpr", "call_jaxpr", "program"):
        if key in equation.params:
            program = equation.params[key]
            return program if isinstance(program, ClosedJaxpr) else ClosedJaxpr(program, ())
    raise AssertionError(equation.primitive)
