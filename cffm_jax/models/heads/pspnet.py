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
from cffm_jax.models.resize import resize_bilinear, resize_corners

Levels = tuple[Float[Array, "N _ _ _"], ...]
"""The pooled maps, projected."""


class PyramidPooling(TemporalHead):
    """The map's pooled forms are projected and enlarged to it, and all are fused."""

    LEAST_SAMPLES: ClassVar[int] = 2
    ENLARGED_FIRST: ClassVar[bool] = False
    """Whether pooled maps are enlarged before they are projected."""
    NARROWER: ClassVar[int] = 1
    """How much narrower than the features a projected map is."""

    def setup(self) -> None:
        self.levels = [layers.ConvNorm(self.width // self.NARROWER, 1, self.dtype) for _ in SIDES]
        self.fuse = layers.ConvNorm(self.width, 3, self.dtype)

    def features(self, maps: Maps, train: bool = False) -> Float[Array, "N h w C"]:
        """The last map."""
        return maps[-1]

    def context(self, features: Float[Array, "N h w C"], regions: jax.Array | None) -> Pyramid:
        return pyramid(features)

    def read(self, features: Float[Array, "N h w C"], context: Pyramid, train: bool = False) -> Levels:
        levels = [level.astype(self.dtype) for level in context]
        if self.ENLARGED_FIRST:
            levels = [self.enlarged(level, sides(features)) for level in levels]
        return tuple(project(level, train) for project, level in zip(self.levels, levels, strict=True))

    def beside(self, features: Float[Array, "N h w _"], read: Levels) -> Float[Array, "N h w _"]:
        return jnp.concatenate([features, *(self.enlarged(level, sides(features)) for level in read)], -1)

    @staticmethod
    def enlarged(level: Float[Array, "N _ _ C"], size: tuple[int, int]) -> Float[Array, "N _ _ C"]:
        return resize_bilinear(level, size)

    def finished(self, x: Float[Array, "N h w _"], train: bool = False) -> Float[Array, "N h w _"]:
        return self.fuse(x, train)


class CornerPooling(PyramidPooling):
    """ETC's: projections half as wide as the features, resized with corners kept."""

    NARROWER: ClassVar[int] = 2

    @staticmethod
    def enlarged(level: Float[Array, "N _ _ C"], size: tuple[int, int]) -> Float[Array, "N _ _ C"]:
        return resize_corners(level, size)


_M = (
    *mm_conv("head/levels_{number}", "decode_head.psp_modules.{number}.1"),
    *mm_conv("head/fuse", "decode_head.bottleneck"),
    MM_CLASSIFIER,
    *MM_AUXILIARY,
)


def vspw_layers(last: str) -> tuple[Layer, ...]:
    """The layers as the VSPW baselines name them; ``last``: the key of fusion and classifier."""
    return (
        *conv_norm("head/levels_{number}", "decoder.ppm.{number}.1", "decoder.ppm.{number}.2"),
        *conv_norm("head/fuse", f"{last}.0", f"{last}.1"),
        Layer("classifier", f"{last}.4", DENSE_1X1),
        *conv_norm("auxiliary", "decoder.cbr_deepsup.0", "decoder.cbr_deepsup.1"),
        Layer("auxiliary_classifier", "decoder.conv_last_deepsup_", DENSE_1X1),
    )


ETC_LAYERS = (
    *conv_norm("head/levels_{number}", "ppm.features.{number}.1", "ppm.features.{number}.2"),
    *conv_norm("head/fuse", "cls.0", "cls.1"),
    Layer("classifier", "cls.4", DENSE_1X1),
    *conv_norm("auxiliary", "aux.0", "aux.1"),
    Layer("auxiliary_classifier", "aux.4", DENSE_1X1),
)
"""As ETC's code names them."""

_LAST = "decoder.conv_last_"
KIND = HeadKind(
    "PSPNet",
    {
        "mmsegmentation": HeadForm(PyramidPooling, mm_names("pspnet", "PSPNet", _M)),
        "vspw": HeadForm(
            PyramidPooling,
            vspw_names("pspnet", "PSPNet", vspw_layers(_LAST), classifier=f"{_LAST}.4"),
            auxiliary=Auxiliary(512),
        ),
    },
)
