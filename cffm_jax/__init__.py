"""Video semantic segmentation with local and global temporal contexts (CFFM, CVPR 2022; CFFM++,
TPAMI 2024) in JAX.

The names below are imported when they are first used: loader processes and the scoring of PNGs do
without JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from cffm_jax.channels import Channels
    from cffm_jax.inference.load import load
    from cffm_jax.models.create import create_model
    from cffm_jax.models.kmeans import kmeans
    from cffm_jax.models.losses import clip_loss
    from cffm_jax.weights.naming.match import convert_state_dict, export_state_dict

_HOMES = {
    "Channels": "cffm_jax.channels",
    "clip_loss": "cffm_jax.models.losses",
    "convert_state_dict": "cffm_jax.weights.naming.match",
    "create_model": "cffm_jax.models.create",
    "export_state_dict": "cffm_jax.weights.naming.match",
    "kmeans": "cffm_jax.models.kmeans",
    "load": "cffm_jax.inference.load",
}

__all__ = [
    "Channels",
    "__version__",
    "clip_loss",
    "convert_state_dict",
    "create_model",
    "export_state_dict",
    "kmeans",
    "load",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("cffm-jax")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
