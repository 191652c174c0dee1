"""Encoders by name: f32[N, H, W, 3] -> four maps [N, H/s, W/s, C_s], s = 4, 8, 16, 32."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

import flax.linen as nn
import jax.numpy as jnp

from cffm_jax.models import layers
from cffm_jax.models.encoders import convnext, mit

T = TypeVar("T")

STRIDES = (4, 8, 16, 32)


def names() -> tuple[str, ...]:
    return *mit.SIZES, *convnext.SIZES


def size_of(name: str) -> mit.MiTSize | convnext.ConvNeXtSize:
    """The row of an encoder: its channels and depths by stage, its norms' epsilons."""
    return mit.SIZES[name] if name in mit.SIZES else convnext.SIZES[name]


def make_encoder(
    name: str,
    norm_epsilons: tuple[float, float],
    drop_path: float,
    dtype: jnp.dtype,
    depths: tuple[int, ...] = (),
    remat: layers.Remat = "none",
) -> nn.Module:
    """The encoder's module; see ``mit.MiT`` for the arguments."""
    module = mit.MiT if name in mit.SIZES else convnext.ConvNeXt
    return module(name, norm_epsilons, drop_path, dtype, depths, remat)


def repeat_blocks(leaves: Mapping[str, T], name: str) -> dict[str, T]:
    """Leaves by path of an encoder with one block a stage -> those of the named one, whose blocks are alike."""
    depths, found = size_of(name).depths, {}
    first = 1 if name in mit.SIZES else 0
    for path, leaf in leaves.items():
        match = re.fullmatch(r"(.*stages?_?(\d)/blocks?_?)0(/.*)", path)
        count = depths[int(match[2]) - first] if match else 1
        found |= {f"{match[1]}{i}{match[3]}" if match else path: leaf for i in range(count)}
    return found
