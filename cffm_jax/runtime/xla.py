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
_NO_TRITON = "--xla_gpu_enable_triton_gemm=false"
"""What that needs: without measuring, Triton's tiles do not fit some products, which then do not
compile (openxla/xla issue 36792)."""


def require_determinism() -> None:
    """Sets the flags; before JAX asks for devices, as XLA reads them then. Of CPUs they say
    nothing."""
    needed = {flag.partition("=")[0]: flag for flag in (DETERMINISTIC, _NO_TRITON)}
    others = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if flag.partition("=")[0] not in needed]
    os.environ["XLA_FLAGS"] = " ".join([*others, *needed.values()])
