"""OCRNet: every pixel attends to one region a class, which the auxiliary head's logits pool (Yuan
et al., ECCV 2020).

Dimension key: as in ``head``; C channels of the features, c within the attention.
"""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from cffm_jax.models import layers
from cffm_jax.models.foreign.layouts import DENSE_1X1
from cffm_jax.models.foreign.names import Layer, conv_norm, mm_conv
from cffm_jax.models.heads.head import Auxiliary, HeadForm, HeadKind, Maps, TemporalHead, mm_names, vspw_names


class ObjectContext(TemporalHead):
    READS_REGIONS: ClassVar[bool] = True
    BIASES: ClassVar[bool] = False
    """Whether convolutions have biases beside their norms."""

    def setup(self) -> None:
        def convolution(width: int, side: int = 1) -> layers.ConvNorm:
            return layers.ConvNorm(width, side, self.dtype, use_bias=self.BIASES)

        inner = self.width // 2
        self.pixels = convolution(self.width, 3)
        self.query = [convolution(inner), convolution(inner)]
        self.key = [convolution(inner), convolution(inner)]
        self.value, self.out = convolution(inner), convolution(self.width)
        self.fuse = convolution(self.width)

    def features(self, maps: Maps, train: bool = False) -> Float[Array, "N h w C"]:
        return self.pixels(maps[-1], train)

    def context(
        self, features: Float[Array, "N h w C"], regions: Float32[Array, "N h w K"] | None
    ) -> Float32[Array, "N K C"]:
        """A context a class: the features' mean, weighed by the softmax of its logits over all
        pixels."""
        assert regions is not None  # All of its forms have an auxiliary head.
        n, h, w, k = regions.shape
        weights = jax.nn.softmax(regions.astype(jnp.float32).reshape(n, h * w, k), axis=1)
        flat = features.astype(jnp.float32).reshape(n, h * w, -1)
        return jnp.einsum("npk,npc->nkc", weights, flat, precision="highest")

    def read(
        self, features: Float[Array, "N h w C"], context: Float32[Array, "N K C"], train: bool = False
    ) -> Float[Array, "N h w C"]:
        """Features fused with what their pixels read of the contexts."""
        n, h, w, _ = features.shape
        contexts = context[:, :, None].astype(self.dtype)
        query, key = features, contexts
        for of_pixels, of_contexts in zip(self.query, self.key, strict=True):
            query, key = of_pixels(query, train), of_contexts(key, train)
        value, key = self.value(contexts, train)[:, :, 0], key[:, :, 0]
        query = query.reshape(n, h * w, -1)
        weights = layers.softmax(layers.logits("npc,nkc->npk", query, key) / key.shape[-1] ** 0.5, self.dtype)
        read = jnp.einsum("npk,nkc->npc", weights, value).reshape(n, h, w, -1)
        return self.fuse(jnp.concatenate([self.out(read, train), features], -1), train)

    def beside(self, features: Float[Array, "N h w _"], read: Float[Array, "N h w C"]) -> Float[Array, "N h w C"]:
        return read


class WithBiases(ObjectContext):
    BIASES: ClassVar[bool] = True


_H = "decode_head.1."
_O = _H + "object_context_block."
_M = (
    *mm_conv("head/pixels", _H + "bottleneck"),
    *mm_conv("head/query_{number}", _O + "query_project.{number}"),
    *mm_conv("head/key_{number}", _O + "key_project.{number}"),
    *mm_conv("head/value", _O + "value_project"),
    *mm_conv("head/out", _O + "out_project"),
    *mm_conv("head/fuse", _O + "bottleneck"),
    Layer("classifier", _H + "conv_seg", DENSE_1X1),
    *mm_conv("auxiliary", "decode_head.0.convs.0"),
    Layer("auxiliary_classifier", "decode_head.0.conv_seg", DENSE_1X1),
)


def vspw_layers(prefix: str, classifier: str) -> tuple[Layer, ...]:
    """The layers as the VSPW baselines name them, all but the classifier below a prefix."""
    block = f"{prefix}spatial_ocr_head.object_context_block."
    return (
        *conv_norm("head/pixels", prefix + "conv_3x3.0", prefix + "conv_3x3.1"),
        *conv_norm("head/query_0", block + "f_pixel.0", block + "f_pixel.1"),
        *conv_norm("head/query_1", block + "f_pixel.3", block + "f_pixel.4"),
        *conv_norm("head/key_0", block + "f_object.0", block + "f_object.1"),
        *conv_norm("head/key_1", block + "f_object.3", block + "f_object.4"),
        *conv_norm("head/value", block + "f_down.0", block + "f_down.1"),
        *conv_norm("head/out", block + "f_up.0", block + "f_up.1"),
        *conv_norm(
            "head/fuse",
            prefix + "spatial_ocr_head.conv_bn_dropout.0",
            prefix + "spatial_ocr_head.conv_bn_dropout.1",
        ),
        Layer("classifier", classifier, DENSE_1X1),
        *conv_norm("auxiliary", prefix + "dsn_head.0", prefix + "dsn_head.1"),
        Layer("auxiliary_classifier", prefix + "dsn_head.4", DENSE_1X1),
    )


KIND = HeadKind(
    "OCRNet",
    {
        "mmsegmentation": HeadForm(ObjectContext, mm_names("ocrnet", "OCRNet", _M, classifier=_H + "conv_seg")),
        "vspw": HeadForm(
            WithBiases,
            vspw_names("ocrnet", "OCRNet", vspw_layers("decoder.", "decoder.head"), classifier="decoder.head"),
            auxiliary=Auxiliary(512, use_bias=True),
            dropout=0.05,
        ),
    },
)
