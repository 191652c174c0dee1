"""The interface of a backbone. A family of them is one file, and one row of ``names.BACKBONES``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from cffm_jax.models.foreign.layouts import LAYER_SCALE, NORM, PARAMS
from cffm_jax.models.foreign.names import Layer, Origin, layer_at

STRIDES = (4, 8, 16, 32)
"""Strides of the four maps."""
COLOURS = 3
ENCODER_PARTS = (
    "patch_embeddings", "attention_projections", "attention_products", "attention_reduction", "encoder_mlp",
    "depthwise",
)  # fmt: skip
"""Parts by which the multiply-accumulates of an encoder are counted."""


@dataclasses.dataclass(frozen=True)
class Size:
    """One backbone of a family. A family's own rows may say more.

    Attributes:
      channels: of the four maps.
      depths: blocks of the four stages.
      like: the MiT ("b0" .. "b5") of like size. The papers give numbers of blocks for MiT alone;
        other backbones take those: our choice.
      norm_epsilons: of the norms of embeddings and reductions, of blocks and stages.
    """

    channels: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    like: str
    norm_epsilons: tuple[float, float] = (1e-6, 1e-6)


@dataclasses.dataclass(frozen=True, eq=False)
class Backbone:
    """A family of encoders.

    Attributes:
      sizes: its backbones by name.
      module: (size, norm_epsilons, drop_path, dtype, depths, remat) -> the encoder. Called with
        f32[N, H, W, 3], sides multiples of 32, and ``train``, it gives four maps [N, H/s, W/s, C_s]
        for s in ``STRIDES``. Arguments: ``drop_path`` the last block's probability of skipping its
        branches, ``depths`` () as the size says, ``remat`` see ``layers.rematerialised``.
        Parameters are float32; the blocks of a stage are alike.
      macs: (size, height, width) -> multiply-accumulates of one frame by part, see
        ``ENCODER_PARTS``.
      layers: every layer, with its path within the encoder, and with its authors' key without
        "backbone.".
      block: path and key of a block, templates as those of its layers, which both begin with it.
      shapes: size -> those of a few arrays by released key: enough to tell it within the family.
      origins: whose files are read; the same origin may stand in several families.
      afresh: template of released keys that files of an encoder alone may lack and that then start
        as in training from nothing -> what messages call them.
    """

    sizes: Mapping[str, Any]
    module: Callable[..., nn.Module]
    macs: Callable[[Any, int, int], dict[str, int]]
    layers: tuple[Layer, ...]
    block: tuple[str, str]
    shapes: Callable[[Any], dict[str, tuple[int, ...]]]
    origins: tuple[Origin, ...]
    afresh: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def decays(self, path: str) -> bool:
        """Whether weight decay applies to an encoder's parameter: not to norms and layer scales."""
        layer = layer_at(self.layers, PARAMS, path)
        return not layer or layer[0].kind not in (NORM, LAYER_SCALE)
