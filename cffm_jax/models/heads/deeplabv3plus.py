"""DeepLabv3+: dilated convolutions of several rates beside the mean, refined by the first map (Chen
et al., ECCV 2018)."""

from __future__ import annotations

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from cffm_jax.models import layers
from cffm_jax.models.foreign.layouts import BATCH_NORM, DENSE_1X1, DEPTHWISE
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
from cffm_jax.models.resize import resize_bilinear, resize_corners

RATES = (12, 24, 36)
_OF_FIRST_MAP = 48
"""Channels that the first map is projected to, beside features of 512."""


class SeparableConv(nn.Module):
    """Depthwise 3x3, then 1x1, each with BatchNorm and ReLU."""

    width: int
    dtype: jnp.dtype
    dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = layers.DepthwiseConvNorm(self.dtype, dilation=self.dilation, name="depthwise")(x, train)
        return layers.ConvNorm(self.width, 1, self.dtype, name="pointwise")(x, train)


def _mean(head: Head, x: jax.Array, train: bool) -> jax.Array:
    """The mean of a map, projected, at each of its positions."""
    mean = layers.ConvNorm(head.width, 1, head.dtype, name="mean")(jnp.mean(x, (1, 2), keepdims=True), train)
    return jnp.broadcast_to(mean, (*x.shape[:3], head.width))


class DeepLabV3Plus(Head):
    LEAST_SAMPLES: ClassVar[int] = 2

    @nn.compact
    def __call__(self, maps: Maps, regions: jax.Array | None, train: bool = False) -> jax.Array:
        first, x = maps[0], maps[-1]
        branches = [
            _mean(self, x, train),
            layers.ConvNorm(self.width, 1, self.dtype, name="rate1")(x, train),
            *(SeparableConv(self.width, self.dtype, rate, name=f"rate{rate}")(x, train) for rate in RATES),
        ]
        y = layers.ConvNorm(self.width, 3, self.dtype, name="fuse")(jnp.concatenate(branches, -1), train)
        detail = layers.ConvNorm(_OF_FIRST_MAP * self.width // 512, 1, self.dtype, name="detail")(first, train)
        y = jnp.concatenate([resize_bilinear(y, sides(first)), detail], -1)
        for name in ("refine1", "refine2"):
            y = SeparableConv(self.width, self.dtype, name=name)(y, train)
        return y


class _DeepLabV3PlusOfVSPW(Head):
    """Its rates are plain convolutions; elements are dropped after three layers."""

    LEAST_SAMPLES: ClassVar[int] = 2

    @nn.compact
    def __call__(self, maps: Maps, regions: jax.Array | None, train: bool = False) -> jax.Array:
        first, x = maps[0], maps[-1]
        branches = [
            layers.ConvNorm(self.width, 1, self.dtype, name="rate1")(x, train),
            *(
                layers.ConvNorm(self.width, 3, self.dtype, dilation=rate, name=f"rate{rate}")(x, train)
                for rate in RATES
            ),
            _mean(self, x, train),
        ]
        y = layers.ConvNorm(self.width, 1, self.dtype, name="fuse")(jnp.concatenate(branches, -1), train)
        y = resize_corners(nn.Dropout(0.5)(y, deterministic=not train), sides(first))
        detail = layers.ConvNorm(_OF_FIRST_MAP, 1, self.dtype, name="detail")(first, train)
        y = layers.ConvNorm(self.width, 3, self.dtype, name="refine1")(jnp.concatenate([y, detail], -1), train)
        return layers.ConvNorm(self.width, 3, self.dtype, name="refine2")(
            nn.Dropout(0.5)(y, deterministic=not train), train
        )


def _separable(path: str, key: str) -> tuple[Layer, ...]:
    return (
        Layer(f"{path}/depthwise/conv", f"{key}.depthwise_conv.conv", DEPTHWISE),
        Layer(f"{path}/depthwise/norm", f"{key}.depthwise_conv.bn", BATCH_NORM),
        *mm_conv(f"{path}/pointwise", f"{key}.pointwise_conv"),
    )


_H = "decode_head."
_M = (
    *mm_conv("head/mean", _H + "image_pool.1"),
    *mm_conv("head/rate1", _H + "aspp_modules.0"),
    *(layer for i, rate in enumerate(RATES, 1) for layer in _separable(f"head/rate{rate}", f"{_H}aspp_modules.{i}")),
    *mm_conv("head/fuse", _H + "bottleneck"),
    *mm_conv("head/detail", _H + "c1_bottleneck"),
    *_separable("head/refine1", _H + "sep_bottleneck.0"),
    *_separable("head/refine2", _H + "sep_bottleneck.1"),
    MM_CLASSIFIER,
    *MM_AUXILIARY,
)
_A, _D = "decoder.aspp.", "decoder.decoder."
_V = (
    *conv_norm("head/mean", _A + "global_avg_pool.1", _A + "global_avg_pool.2"),
    *(
        layer
        for i, rate in enumerate((1, *RATES), 1)
        for layer in conv_norm(f"head/rate{rate}", f"{_A}aspp{i}.atrous_conv", f"{_A}aspp{i}.bn")
    ),
    *conv_norm("head/fuse", _A + "conv1", _A + "bn1"),
    *conv_norm("head/detail", _D + "conv1", _D + "bn1"),
    *conv_norm("head/refine1", _D + "last_conv.0", _D + "last_conv.1"),
    *conv_norm("head/refine2", _D + "last_conv.4", _D + "last_conv.5"),
    Layer("classifier", _D + "lastlast_conv.1", DENSE_1X1),
)
KIND = HeadKind(
    "DeepLabv3+",
    {
        "mmsegmentation": HeadForm(DeepLabV3Plus, mm_names("deeplabv3plus", "DeepLabv3+", _M)),
        "vspw": HeadForm(
            _DeepLabV3PlusOfVSPW,
            vspw_names("deeplabv3plus", "DeepLabv3+", _V, classifier=_D + "lastlast_conv.1"),
            auxiliary=None,
            width=256,
            dropout=0.1,
            elementwise=True,
        ),
    },
    fine=True,
)
