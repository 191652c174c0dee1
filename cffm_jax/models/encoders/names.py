"""Encoders by name: f32[N, H, W, 3] -> four maps [N, H/s, W/s, C_s], s = 4, 8, 16, 32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import flax.linen as nn
import jax.numpy as jnp

from cffm_jax.models import layers
from cffm_jax.models.encoders import convnext, mit, pvtv2
from cffm_jax.models.encoders.backbone import Backbone, Size
from cffm_jax.models.foreign.names import Origin, fields_of

T = TypeVar("T")

BACKBONES = (mit.BACKBONE, pvtv2.BACKBONE, convnext.BACKBONE)
"""One row a family."""

ENCODER = "encoder"
"""First name of the encoder's parameters in a whole model."""


def names() -> tuple[str, ...]:
    return tuple(name for backbone in BACKBONES for name in backbone.sizes)


def backbone_of(name: str) -> Backbone:
    """The family of an encoder."""
    return next(backbone for backbone in BACKBONES if name in backbone.sizes)


def size_of(name: str) -> Size:
    """The row of an encoder: its channels and depths by stage, its norms' epsilons."""
    return backbone_of(name).sizes[name]


def origins() -> tuple[Origin, ...]:
    """Whose encoders are read, each once."""
    return tuple(dict.fromkeys(origin for backbone in BACKBONES for origin in backbone.origins))


def make_encoder(
    name: str,
    norm_epsilons: tuple[float, float],
    drop_path: float,
    dtype: jnp.dtype,
    depths: tuple[int, ...] = (),
    remat: layers.Remat = "none",
) -> nn.Module:
    """The encoder's module; see ``Backbone`` for the arguments."""
    return backbone_of(name).module(size_of(name), norm_epsilons, drop_path, dtype, depths, remat)


def repeat_blocks(leaves: Mapping[str, T], name: str) -> dict[str, T]:
    """Repeats blocks: leaves of a model by "<collection>/<path>" with one block in each stage of
    the encoder -> those of the model with the named encoder, whose blocks are alike."""
    template, depths, repeated = backbone_of(name).block[0] + "{leaf}", size_of(name).depths, {}
    for path, leaf in leaves.items():
        collection, _, below = path.partition(f"/{ENCODER}/")
        fields = fields_of(template, below)
        if fields is None:
            repeated[path] = leaf
            continue
        for i in range(depths[int(fields["stage0"])]):
            repeated[f"{collection}/{ENCODER}/" + template.format(**fields | {"block": i})] = leaf
    return repeated
