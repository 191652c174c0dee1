"""The interface of a backbone. A family of them is one file, and one row of ``names.BACKBONES``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cffm_jax.models import layers
from cffm_jax.models.foreign.layouts import BATCH_NORM, LAYER_SCALE, NORM, PARAMS
from cffm_jax.models.foreign.names import Layer, Origin, layer_at

STRIDES = (4, 8, 16, 32)
"""Strides of the four maps, unless the later ones are dilated."""
INPUT_MULTIPLE = STRIDES[-1]
"""Of which the sides of frames are multiples, but for backbones that take any."""
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
      output_stride: the largest stride of a map; beyond it stages dilate their convolutions.
      head_width: channels within the heads of ``methods.image_head``.
      dilates_second: whether it is the second 3x3 of a ResNet's basic blocks that is dilated, alike
        in all blocks of a stage; otherwise it is the first.
    """

    channels: tuple[int, int, int, int]
    depths: tuple[int, ...]
    like: str
    norm_epsilons: tuple[float, float] = (1e-6, 1e-6)
    output_stride: int = STRIDES[-1]
    head_width: int = 512
    dilates_second: bool = False

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the four maps."""
        return tuple(min(stride, self.output_stride) for stride in STRIDES)


class Encoder(nn.Module):
    """Stages in a row. Parameters and norms are float32; the blocks of a stage are alike.

    Attributes:
      size: a row of the family's.
      norm_epsilons: of the norms of embeddings and reductions, of blocks and stages.
      drop_path: the last block's probability of skipping a branch; it rises linearly from 0.
      dtype: compute type.
      remat: what training computes anew, see ``layers.rematerialised``.
    """

    size: Any
    norm_epsilons: tuple[float, float]
    drop_path: float
    dtype: jnp.dtype
    remat: layers.Remat = "none"

    def stage(self, index: int, drop_paths: tuple[float, ...]) -> Callable[[jax.Array, bool], tuple[jax.Array, ...]]:
        """The module of a stage: (what the stage before gave, ``train``) -> (what the next one
        reads, the stage's map). ``drop_paths``: those of its blocks."""
        raise NotImplementedError

    def __call__(self, frames: Float[Array, "N H W K"], train: bool = False) -> tuple[Float[Array, "N _ _ _"], ...]:
        """Four maps [N, H/s, W/s, C_s], s in ``size.strides``, of normalised frames; H and W are
        multiples of ``Backbone.input_multiple``."""
        return self.stages(frames.astype(self.dtype), train)[1]

    @nn.compact
    def stages(
        self, x: Float[Array, "N _ _ _"], train: bool = False, first: int = 0, last: int = 3
    ) -> tuple[Float[Array, "N _ _ _"], tuple[Float[Array, "N _ _ _"], ...]]:
        """Some stages, counted from 0: what the stage after ``last`` reads, and their maps; ``x``:
        what the ``first`` one reads, frames in the compute type or the first result of stages
        before."""
        rates, maps = np.linspace(0, self.drop_path, sum(self.size.depths)).tolist(), []
        for i, depth in enumerate(self.size.depths):
            if first <= i <= last:
                x, stage_map = self.stage(i, tuple(rates[:depth]))(x, train)
                maps.append(stage_map)
            rates = rates[depth:]
        return x, tuple(maps)


@dataclasses.dataclass(frozen=True, eq=False)
class Backbone:
    """A family of encoders.

    Attributes:
      sizes: its backbones by name.
      module: the encoder.
      macs: (size, height, width, channels) -> multiply-accumulates of one frame by part, see
        ``ENCODER_PARTS``.
      elements: the same -> what the papers' count adds to them, see ``macs.ELEMENTWISE``.
      layers: every layer, with its path within the encoder, and with its authors' key without
        "backbone.".
      block: path and key of a block, templates as those of its layers, which both begin with it.
      shapes: size -> those of a few arrays by released key: enough to tell it within the family.
      origins: whose files are read; the same origin may stand in several families.
      afresh: template of released keys that files of an encoder alone may lack and that then start
        as in training from nothing -> what messages call them.
      output_strides: that its encoders can have.
      input_multiple: of which the sides of frames are multiples.
      drops_paths: whether training skips branches at random.
      template_depths: from so many blocks on those of a stage are alike; () where none are, and
        their numbers cannot be set.
    """

    sizes: Mapping[str, Any]
    module: type[Encoder]
    macs: Callable[[Any, int, int, int], dict[str, int]]
    elements: Callable[[Any, int, int], int]
    layers: tuple[Layer, ...]
    block: tuple[str, str]
    shapes: Callable[[Any], dict[str, tuple[int, ...]]]
    origins: tuple[Origin, ...]
    afresh: Mapping[str, str] = dataclasses.field(default_factory=dict)
    output_strides: tuple[int, ...] = (STRIDES[-1],)
    input_multiple: int = INPUT_MULTIPLE
    drops_paths: bool = True
    template_depths: tuple[int, ...] = (1, 1, 1, 1)

    def decays(self, path: str) -> bool:
        """Whether weight decay applies to an encoder's parameter: not to norms and layer scales."""
        layer = layer_at(self.layers, PARAMS, path)
        return not layer or layer[0].kind not in (NORM, BATCH_NORM, LAYER_SCALE)
