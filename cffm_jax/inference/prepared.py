"""What a step computes of its weights alone, computed once: casts, products of weights, position
biases. On a GPU they are a third of a stream's launches.

A step is cut in two by what its operations read. One that reads weights, or what was computed of
them, and nothing else, belongs to the first part, unless it repeats them (a bias for every
position): repeated they would take memory, and time to read. What lies in a loop stays there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun


class Prepared(NamedTuple):
    """Weights as the second part of a step reads them, and what was computed of them alone."""

    values: tuple[jax.Array, ...]


class Halves(NamedTuple):
    """A function of variables and other arguments in two parts, neither compiled.

    Attributes:
      first: variables -> ``Prepared``.
      second: (``Prepared``, *others) -> what the function gives.
    """

    first: Callable[[Any], Prepared]
    second: Callable[..., Any]


def halves(function: Callable[..., Any], variables: Any, *others: Any) -> Halves:
    """Cuts a function; the arguments may be shapes."""
    closed, result = jax.make_jaxpr(function, return_shape=True)(variables, *others)
    whole, weights = closed.jaxpr, closed.jaxpr.invars[: len(jax.tree.leaves(variables))]
    constant: set[Var] = set(whole.constvars)
    known: set[Var] = set(weights)
    constants, early, late = [], [], []
    for equation in whole.eqns:
        read = _variables(equation.invars)
        of_weights = not known.isdisjoint(read)
        if equation.effects or read - known - constant or (of_weights and _repeats(equation)):
            late.append(equation)
        else:
            (early if of_weights else constants).append(equation)
            (known if of_weights else constant).update(equation.outvars)
    needed = _variables([*whole.outvars, *(atom for equation in late for atom in equation.invars)])
    made = [var for equation in early for var in equation.outvars]
    kept = [var for var in (*weights, *made) if var in needed]
    # What is constant is computed in both, by the compiler.
    first = _function(closed, weights, kept, [*constants, *early])
    second = _function(closed, [*kept, *whole.invars[len(weights) :]], whole.outvars, [*constants, *late])
    structure = jax.tree.structure(result)

    def of_prepared(prepared: Prepared, *others: Any) -> Any:
        return jax.tree.unflatten(structure, second(*prepared.values, *jax.tree.leaves(others)))

    return Halves(lambda variables: Prepared(tuple(first(*jax.tree.leaves(variables)))), of_prepared)


def _variables(atoms: Iterable[Any]) -> set[Var]:
    return {atom for atom in atoms if not isinstance(atom, Literal)}


def _repeats(equation: JaxprEqn) -> bool:
    if equation.primitive.name != "broadcast_in_dim":
        return False
    return math.prod(equation.params["shape"]) > math.prod(equation.invars[0].aval.shape)  # pyrefly: ignore[missing-attribute]  # of arrays


def _function(closed: ClosedJaxpr, inputs: list[Var], outputs: list[Any], equations: list[JaxprEqn]) -> Callable:
    """The equations in their order, as a function of variables."""
    unnamed = closed.jaxpr.debug_info.with_unknown_names()
    part: Jaxpr = closed.jaxpr.replace(invars=inputs, outvars=outputs, eqns=equations, debug_info=unnamed)
    return jaxpr_as_fun(ClosedJaxpr(part, closed.consts))
