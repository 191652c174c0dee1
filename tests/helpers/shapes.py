"""Array shapes and types of the package's functions, checked at each call while the tests run."""

from collections.abc import Callable

import beartype
import jax
import jaxtyping
import numpy as np

CHECKED = (
    "cffm_jax.inference.engine",
    "cffm_jax.inference.ring",
    "cffm_jax.metrics.boundary",
    "cffm_jax.metrics.confusion",
    "cffm_jax.metrics.consistency",
    "cffm_jax.metrics.scores",
    "cffm_jax.models.contexts.assemble",
    "cffm_jax.models.contexts.cffa",
    "cffm_jax.models.contexts.windows",
    "cffm_jax.models.cfm",
    "cffm_jax.models.decoder",
    "cffm_jax.models.encoders.backbone",
    "cffm_jax.models.flow",
    "cffm_jax.models.kmeans",
    "cffm_jax.models.losses",
    "cffm_jax.models.methods",
    "cffm_jax.models.heads",
    "cffm_jax.models.normalise",
    "cffm_jax.models.pyramid",
    "cffm_jax.models.resize",
)
"""Modules, or packages with all in them, whose annotations are checked; not `metrics.kernels`, which Numba compiles."""

_ARRAY = jax.Array | np.ndarray
"""What passes for an array of JAX: NumPy's too, as in JAX itself."""

_beartype = beartype.beartype(
    conf=beartype.BeartypeConf(
        is_pep484_tower=True,  # An int is a float.
        hint_overrides=beartype.FrozenDict({jax.Array: _ARRAY}),
    )
)


def typechecker(function: Callable) -> Callable:
    """Checks a function; not the ``__init__`` of a dataclass, which Flax gives its modules with fields of its own."""
    return function if function.__name__ == "__init__" else _beartype(function)


def check() -> None:
    """Checks what is imported from now on."""
    jaxtyping.Array = _ARRAY
    jaxtyping.install_import_hook(CHECKED, f"{__name__}.typechecker")
