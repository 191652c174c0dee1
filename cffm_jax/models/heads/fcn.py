"""FCN: three convolutions of the last map (Long et al., CVPR 2015; as MMSegmentation has it)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from cffm_jax.models import layers
from cffm_jax.models.foreign.names import mm_conv
from cffm_jax.models.heads.head import MM_AUXILIARY, MM_CLASSIFIER, Head, HeadForm, HeadKind, Maps, mm_names


class FCN(Head):
    @nn.compact
    def __call__(self, maps: Maps, regions: jax.Array | None, train: bool = False) -> jax.Array:
        x = y = maps[-1]
        for name in ("first", "second"):
            y = layers.ConvNorm(self.width, 3, self.dtype, name=name)(y, train)
        return layers.ConvNorm(self.width, 3, self.dtype, name="fuse")(jnp.concatenate([x, y], -1), train)


_LAYERS = (
    *mm_conv("head/first", "decode_head.convs.0"),
    *mm_conv("head/second", "decode_head.convs.1"),
    *mm_conv("head/fuse", "decode_head.conv_cat"),
    MM_CLASSIFIER,
    *MM_AUXILIARY,
)
KIND = HeadKind("FCN", {"mmsegmentation": HeadForm(FCN, mm_names("fcn", "FCN", _LAYERS))})
