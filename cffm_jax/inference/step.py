"""A compiled step, its state that is used once, and its weights, prepared or as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from cffm_jax.inference.engine import State
from cffm_jax.inference.prepared import Halves, Prepared, halves


class Step:
    """A step that is compiled, and into whose state's memory the next is written."""

    def __init__(self, function: Callable[..., Any], state: State, frames: jax.ShapeDtypeStruct):
        """``state``: its arrays' shapes."""
        self._function, self._shapes = function, (state, frames)
        self._jitted = jax.jit(function, donate_argnums=1)
        self._halves: dict[Any, Halves] = {}  # Compiled, by the shapes of the variables.
        self._second: dict[Any, Callable[..., Any]] = {}  # By those of what was prepared.

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
        key = _shapes(variables)
        if key not in self._halves:
            first, second = halves(self._function, jax.eval_shape(lambda x: x, variables), *self._shapes)
            self._halves[key] = Halves(jax.jit(first), jax.jit(second, donate_argnums=1))
        first, second = self._halves[key]
        arrays = all(isinstance(leaf, jax.Array | np.ndarray) for leaf in jax.tree.leaves(variables))
        prepared = first(variables) if arrays else jax.eval_shape(first, variables)
        self._second[_shapes(prepared)] = second
        return prepared

    def suited(self, variables: Any) -> Any:
        """Prepared weights; on CPUs, where launches cost nothing, the variables themselves."""
        return variables if jax.default_backend() == "cpu" else self.prepare(variables)

    def _compiled(self, variables: Any) -> Any:
        if not isinstance(variables, Prepared):
            return self._jitted
        second = self._second.get(_shapes(variables))
        if second is None:
            raise ValueError("these weights were prepared by another step; prepare them by the one they are for")
        return second

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") and name != "_cache_size":  # A copy in the making has none of its own yet.
            raise AttributeError(name)
        return getattr(self._jitted, name)


def _shapes(tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((leaf.shape, jax.numpy.dtype(leaf.dtype)) for leaf in leaves)


def require_unused(state: State) -> None:
    """ValueError where a step has used the state up already: XLA tells of a deleted buffer."""
    arrays = (leaf for leaf in jax.tree.leaves(state) if not isinstance(leaf, jax.core.Tracer))
    if any(isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in arrays):
        raise ValueError(
            "the state was used up by the step that it was given to; go on with the state which that step returned, "
            "or copy it (jax.device_get) before a step to use it again"
        )
