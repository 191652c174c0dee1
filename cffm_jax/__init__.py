"""Video semantic segmentation with temporal contexts (CFFM, CVPR 2022) in JAX."""

from cffm_jax.conversion.state_dicts import convert_state_dict, export_state_dict
from cffm_jax.models.cffm import create_model

__all__ = ["convert_state_dict", "create_model", "export_state_dict"]
