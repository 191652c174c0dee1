"""Encoders by name: f32[N, H, W, 3] -> four maps [N, H/s, W/s, C_s], s = 4, 8, 16, 32."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TypeVar

import flax.linen as nn
import jax.numpy as jnp

from cffm_jax.models import layers
from cffm_jax.models.encoders import convnext, mit, mobilenetv2, pvtv2, resnet
from cffm_jax.models.encoders.backbone import STRIDES, Backbone, Size
from cffm_jax.models.foreign.names import Origin, fields_of

T = TypeVar("T")

BACKBONES = (
    mit.BACKBONE, pvtv2.BACKBONE, convnext.BACKBONE, resnet.V1C, resnet.VSPW, resnet.PLAIN, mobilenetv2.BACKBONE,
)  # fmt: skip
"""One row a family."""

ENCODER = "encoder"
"""First name of the encoder's parameters in a whole model."""


def names() -> tuple[str, ...]:
    return tuple(name for backbone in BACKBONES for name in backbone.sizes)


def backbone_of(name: str) -> Backbone:
    """The family of an encoder."""
    return next(backbone for backbone in BACKBONES if name in backbone.sizes)


def size_of(name: str, depths: tuple[int, ...] = (), output_stride: int = STRIDES[-1]) -> Size:
    """The row of an encoder: its channels and depths by stage, its norms' epsilons. Its output
    stride is the one asked for, or 32 where the family has no such."""
    family = backbone_of(name)
    size = family.sizes[name]
    stride = output_stride if output_stride in family.output_strides else size.output_stride
    return dataclasses.replace(size, depths=depths or size.depths, output_stride=stride)


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
    output_stride: int = STRIDES[-1],
    dilates_second: bool = False,
) -> nn.Module:
    """The encoder's module; see ``Encoder``, ``Size`` and ``size_of`` for the arguments."""
    size = dataclasses.replace(size_of(name, depths, output_stride), dilates_second=dilates_second)
    return backbone_of(name).module(size, norm_epsilons, drop_path, dtype, remat)


def repeat_blocks(leaves: Mapping[str, T], name: str) -> dict[str, T]:
    """Repeats blocks: leaves of a model by "<collection>/<path>" with ``template_depths`` blocks in
    the stages of the encoder -> those of the model with the named encoder: all further blocks are
    like the last."""
    family, depths, repeated = backbone_of(name), size_of(name).depths, {}
    template = family.block[0] + "{leaf}"
    for path, leaf in leaves.items():
        collection, _, below = path.partition(f"/{ENCODER}/")
        fields = fields_of(template, below)
        repeated[path] = leaf
        if fields is None or not family.template_depths:
            continue
        stage, block = int(fields["stage0"]), int(fields["block"])
        if block + 1 == family.template_depths[stage]:
            for i in range(block + 1, depths[stage]):
                repeated[f"{collection}/{ENCODER}/" + template.format(**fields | {"block": i})] = leaf
    return repeated
