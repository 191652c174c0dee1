"""A compiled step, its state that is used once, and its weights, prepared or as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from cffm_jax.inference.engine import State
from cffm_jax.inference.prepared import Prepared, halves


class Step:
    """A step that is compiled, and into whose state's memory the next is written."""

    def __init__(self, function: Callable[..., Any], state: State, frames: jax.ShapeDtypeStruct):
        """``state``: its arrays' shapes."""
        self._function, self._shapes = function, (state, frames)
        self._jitted = jax.jit(function, donate_argnums=1)
        self._second: tuple[Any, Any] | None = None  # Shapes of prepared weights, and what takes them.

    def __call__(self, variables: Any, state: State, frames: jax.Array | np.ndarray) -> Any:
        require_unused(state)
        return self._compiled(variables)(variables, state, frames)

    def lower(self, variables: Any, state: State, frames: Any) -> jax.stages.Lowered:
        """As ``jax.jit``'s; of ``Prepared`` weights or others, or their shapes."""
        return self._compiled(variables).lower(variables, state, frames)

    def prepare(self, variables: Any) -> Prepared:
        """Weights for this step alone, to be given in place of the variables: with what is computed
        of them alone done once, not in every call. On a GPU that is a third of a step's launches.
        Of shapes, shapes."""
        first, second = halves(self._function, jax.eval_shape(lambda x: x, variables), *self._shapes)
        arrays = all(isinstance(leaf, jax.Array | np.ndarray) for leaf in jax.tree.leaves(variables))
        prepared = jax.jit(first)(variables) if arrays else jax.eval_shape(first, variables)
        if self._second is None:
            self._second = jax.tree.map(_shape, prepared), jax.jit(second, donate_argnums=1)
        return prepared

    def _compiled(self, variables: Any) -> Any:
        if not isinstance(variables, Prepared):
            return self._jitted
        if self._second is None or self._second[0] != jax.tree.map(_shape, variables):
            raise ValueError("these weights were prepared by another step; prepare them by the one they are for")
        return self._second[1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._jitted, name)


def _shape(array: Any) -> tuple[tuple[int, ...], Any]:
    return array.shape, array.dtype


def require_unused(state: State) -> None:
    """ValueError where a step has used the state up already: XLA tells of a deleted buffer."""
    arrays = (leaf for leaf in jax.tree.leaves(state) if not isinstance(leaf, jax.core.Tracer))
    if any(isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in arrays):
        raise ValueError(
            "the state was used up by the step that it was given to; go on with the state which that step returned, "
            "or copy it (jax.device_get) before a step to use it again"
        )
