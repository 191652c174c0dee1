"""PSPNet: the last map beside its means over bins of four sizes (Zhao et al., CVPR 2017)."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cffm_jax.models import layers
from cffm_jax.models.foreign.layouts import DENSE_1X1
from cffm_jax.models.foreign.names import Layer, conv_norm, mm_conv
from cffm_jax.models.heads.head import (
    MM_AUXILIARY,
    MM_CLASSIFIER,
    Auxiliary,
    HeadForm,
    HeadKind,
    Maps,
    TemporalHead,
    mm_names,
    sides,
    vspw_names,
)
from cffm_jax.models.pyramid import SIDES, Pyramid, pyramid
from cffm_jax.models.resize import resize_bilinear


class PyramidPooling(TemporalHead):
    """The map's pooled forms are projected and enlarged to it, and all are fused."""

    LEAST_SAMPLES: ClassVar[int] = 2
    ENLARGED_FIRST: ClassVar[bool] = False
    """Whether pooled maps are enlarged before they are projected."""

    def setup(self) -> None:
        self.levels = [layers.ConvNorm(self.width, 1, self.dtype) for _ in SIDES]
        self.fuse = layers.ConvNorm(self.width, 3, self.dtype)

    def features(self, maps: Maps, train: bool = False) -> Float[Array, "N h w C"]:
        """The last map."""
        return maps[-1]

    def context(self, features: Float[Array, "N h w C"], regions: jax.Array | None) -> Pyramid:
        return pyramid(features)

    def with_context(
        self, features: Float[Array, "N h w C"], context: Pyramid, train: bool = False
    ) -> Float[Array, "N h w _"]:
        return self.fuse(self.concatenated(features, context, train), train)

    def concatenated(self, x: Float[Array, "N h w C"], pooled: Pyramid, train: bool = False) -> Float[Array, "N h w _"]:
        """What is fused."""
        size = sides(x)
        enlarged = [x]
        for project, level in zip(self.levels, pooled, strict=True):
            level = level.astype(self.dtype)
            level = project(resize_bilinear(level, size) if self.ENLARGED_FIRST else level, train)
            enlarged.append(resize_bilinear(level, size))
        return jnp.concatenate(enlarged, -1)


_M = (
    *mm_conv("head/levels_{number}", "decode_head.psp_modules.{number}.1"),
    *mm_conv("head/fuse", "decode_head.bottleneck"),
    MM_CLASSIFIER,
    *MM_AUXILIARY,
)
_V = (
    *conv_norm("head/levels_{number}", "decoder.ppm.{number}.1", "decoder.ppm.{number}.2"),
    *conv_norm("head/fuse", "decoder.conv_last_.0", "decoder.conv_last_.1"),
    Layer("classifier", "decoder.conv_last_.4", DENSE_1X1),
    *conv_norm("auxiliary", "decoder.cbr_deepsup.0", "decoder.cbr_deepsup.1"),
    Layer("auxiliary_classifier", "decoder.conv_last_deepsup_", DENSE_1X1),
)
KIND = HeadKind(
    "PSPNet",
    {
        "mmsegmentation": HeadForm(PyramidPooling, mm_names("pspnet", "PSPNet", _M)),
        "vspw": HeadForm(
            PyramidPooling,
            vspw_names("pspnet", "PSPNet", _V, classifier="decoder.conv_last_.4"),
            auxiliary=Auxiliary(512),
        ),
    },
)
