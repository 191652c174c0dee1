"""Settings of XLA: the cache of compiled programs, deterministic kernels."""

from __future__ import annotations

import os
from pathlib import Path


def cache_compilations() -> None:
    """Caches compiled programs for the user, unless JAX_COMPILATION_CACHE_DIR says where or ""."""
    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(cache / "cffm_jax" / "xla"))


DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
"""XLA's flag: no GPU operation with sums in changing order, no choice of kernels by measuring."""


def require_determinism() -> None:
    """Sets the flag; before JAX asks for devices, as XLA reads it then. Of CPUs it says nothing."""
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(DETERMINISTIC[:-4])]
    os.environ["XLA_FLAGS"] = " ".join([*flags, DETERMINISTIC])
