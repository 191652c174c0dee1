"""Encoders by name: f32[N, H, W, 3] -> four maps [N, H/s, W/s, C_s], s = 4, 8, 16, 32."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from cffm_jax.models import convnext, mit

STRIDES = (4, 8, 16, 32)


def names() -> tuple[str, ...]:
    return *mit.SIZES, *convnext.SIZES


def size_of(name: str) -> mit.MiTSize | convnext.ConvNeXtSize:
    """The row of an encoder: its channels and depths by stage, its norms' epsilons."""
    return mit.SIZES[name] if name in mit.SIZES else convnext.SIZES[name]


def make_encoder(name: str, norm_epsilons: tuple[float, float], drop_path: float, dtype: jnp.dtype) -> nn.Module:
    """The encoder's module; see ``mit.MiT`` for the arguments."""
    module = mit.MiT if name in mit.SIZES else convnext.ConvNeXt
    return module(name, norm_epsilons, drop_path, dtype)
