"""Array shapes and types of the package's functions, checked at each call while the tests run."""

import beartype
import jaxtyping

CHECKED = ("cffm_jax.models.kmeans", "cffm_jax.models.normalise", "cffm_jax.models.resize")
"""Modules, or packages with all in them, whose annotations are checked; not `metrics.kernels`, which Numba compiles."""

typechecker = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))  # An int is a float.


def check() -> None:
    """Checks what is imported from now on."""
    jaxtyping.install_import_hook(CHECKED, f"{__name__}.typechecker")
