"""UPerNet: a pyramid of features over PSPNet's pooling (Xiao et al., ECCV 2018)."""

from __future__ import annotations

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from cffm_jax.models import layers
from cffm_jax.models.foreign.layouts import DENSE_1X1
from cffm_jax.models.foreign.names import Layer, conv_norm, mm_conv
from cffm_jax.models.heads.head import (
    MM_AUXILIARY,
    MM_CLASSIFIER,
    Head,
    HeadForm,
    HeadKind,
    Maps,
    mm_names,
    sides,
    vspw_names,
)
from cffm_jax.models.heads.pspnet import PyramidPooling
from cffm_jax.models.resize import resize_bilinear


class _EnlargedFirst(PyramidPooling):
    ENLARGED_FIRST: ClassVar[bool] = True


class UPerNet(Head):
    LEAST_SAMPLES: ClassVar[int] = 2
    POOLING: ClassVar[type[PyramidPooling]] = PyramidPooling

    @nn.compact
    def __call__(self, maps: Maps, regions: jax.Array | None, train: bool = False) -> jax.Array:
        *others, last = maps
        levels = [
            layers.ConvNorm(self.width, 1, self.dtype, name=f"lateral_{i}")(x, train) for i, x in enumerate(others)
        ]
        levels.append(self.POOLING(self.width, self.dtype, name="pooling")([last], None, train))
        for i in reversed(range(len(others))):
            levels[i] += resize_bilinear(levels[i + 1], sides(levels[i]))
        for i in range(len(others)):
            levels[i] = layers.ConvNorm(self.width, 3, self.dtype, name=f"smooth_{i}")(levels[i], train)
        size = sides(levels[0])
        x = jnp.concatenate([resize_bilinear(level, size) for level in levels], -1)
        return layers.ConvNorm(self.width, 3, self.dtype, name="fuse")(x, train)


class _UPerNetOfVSPW(UPerNet):
    POOLING: ClassVar[type[PyramidPooling]] = _EnlargedFirst


_M = (
    *mm_conv("head/pooling/levels_{number}", "decode_head.psp_modules.{number}.1"),
    *mm_conv("head/pooling/fuse", "decode_head.bottleneck"),
    *mm_conv("head/lateral_{number}", "decode_head.lateral_convs.{number}"),
    *mm_conv("head/smooth_{number}", "decode_head.fpn_convs.{number}"),
    *mm_conv("head/fuse", "decode_head.fpn_bottleneck"),
    MM_CLASSIFIER,
    *MM_AUXILIARY,
)
_D = "decoder."
_V = (
    *conv_norm("head/pooling/levels_{number}", _D + "ppm_conv.{number}.0", _D + "ppm_conv.{number}.1"),
    *conv_norm("head/pooling/fuse", _D + "ppm_last_conv.0", _D + "ppm_last_conv.1"),
    *conv_norm("head/lateral_{number}", _D + "fpn_in.{number}.0", _D + "fpn_in.{number}.1"),
    *conv_norm("head/smooth_{number}", _D + "fpn_out.{number}.0.0", _D + "fpn_out.{number}.0.1"),
    *conv_norm("head/fuse", _D + "conv_last_.0.0", _D + "conv_last_.0.1"),
    Layer("classifier", _D + "conv_last_.1", DENSE_1X1),
)
KIND = HeadKind(
    "UperNet",
    {
        "mmsegmentation": HeadForm(UPerNet, mm_names("upernet", "UPerNet", _M)),
        "vspw": HeadForm(
            _UPerNetOfVSPW,
            vspw_names("upernet", "UPerNet", _V, classifier=_D + "conv_last_.1"),
            auxiliary=None,
            dropout=0.0,
        ),
    },
    fine=True,
    output_stride=32,
)
