"""Frame features: the papers' SegFormer decoder, 256 wide for every backbone (CFFM section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cffm_jax.config import ModelConfig
from cffm_jax.models import layers
from cffm_jax.models.encoders.backbone import STRIDES
from cffm_jax.models.resize import resize_bilinear


class _Projection(nn.Module):
    """A stage's dense weights, handed out rather than applied: see ``FrameDecoder``."""

    channels: int
    width: int

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array]:
        kernel = self.param("kernel", layers.truncated_init, (self.channels, self.width))
        return kernel, self.param("bias", nn.initializers.zeros, (self.width,))


class _NormalisedProjection(nn.Module):
    """Dense without bias, BatchNorm, ReLU: [N, H, W, C] -> [N, H, W, width]."""

    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        kernel = self.param("kernel", layers.truncated_init, (x.shape[-1], self.width))
        y = layers.matmul(x, kernel, self.dtype)
        return nn.relu(layers.BatchNorm(name="norm")(y, train)).astype(self.dtype)


class FrameDecoder(nn.Module):
    """Four encoder maps -> the frame's features at stride 4.

    Each stage is projected to ``width`` channels, enlarged to stride 4, concatenated (stage 4
    first) and fused by a 1x1 convolution, BatchNorm and ReLU. Enlarging is linear and acts on each
    channel alone, so it commutes with the 1x1 convolution: a stage is multiplied by (its projection
    x its slice of the fuse kernel) at its own stride, and the sum of the enlarged products is the
    fused map, before the batch's statistics are taken and hence in training too. That takes a tenth
    of the multiplications. A normalised projection ends in a ReLU: only what follows commutes, and
    a stage is multiplied twice at its own stride.

    Attributes:
      width: channels of the features.
      dtype: compute type; parameters and statistics are float32.
      projection: "linear", dense with bias as in SegFormer, or "normalised", dense without bias,
        BatchNorm and ReLU as in MMSegmentation.
    """

    width: int = 256
    dtype: jnp.dtype = jnp.float32
    projection: Literal["linear", "normalised"] = ModelConfig.projection

    @nn.compact
    def __call__(
        self, maps: Sequence[Float[Array, "N _ _ _"]], train: bool = False
    ) -> Float[Array, "N _ _ {self.width}"]:
        """Fuses the four maps, of strides 4, 8, 16 and 32, into features at stride 4."""
        _, h, w, _ = maps[0].shape
        fuse = self.param("fuse", layers.truncated_init, (len(maps), self.width, self.width))  # stage 4 first
        fused = jnp.zeros((self.width,), jnp.float32)
        for i, x in enumerate(maps):
            name, kernel = f"project{i + 1}", fuse[len(maps) - 1 - i]
            if self.projection == "normalised":
                x = _NormalisedProjection(self.width, self.dtype, name=name)(x, train)
            else:
                projection, bias = _Projection(x.shape[-1], self.width, name=name)()
                fused = fused + jnp.matmul(bias, kernel, precision="highest")
                kernel = jnp.matmul(projection, kernel, precision="highest")
            y = layers.matmul(x, kernel, self.dtype).astype(jnp.float32)
            fused = fused + resize_bilinear(y, (h, w))
        # In the compute type, as a convolution would give it: the largest map of all is read often.
        return nn.relu(layers.BatchNorm(name="norm")(fused.astype(self.dtype), train)).astype(self.dtype)


def decoder_macs(
    channels: Sequence[int],
    height: int,
    width: int,
    features: int,
    num_classes: int,
    *,
    normalised: bool,
    merged: bool,
) -> dict[str, int]:
    """Multiply-accumulates of the decoder and the frame classifier for a frame of height x width.
    Merged, a stage's kernel already holds its slice of the fuse kernel (a product once a call); a
    normalised projection's does not: the slice is applied at the stage's own stride."""
    positions = [(height // stride) * (width // stride) for stride in STRIDES]
    fused = len(channels) * positions[0]
    if merged:
        fused = sum(positions) if normalised else 0
    return {
        "decoder_projections": sum(n * c * features for n, c in zip(positions, channels, strict=True)),
        "fuse": fused * features**2,
        "frame_classifier": positions[0] * features * num_classes,
    }


def decoder_elements(channels: Sequence[int], height: int, width: int, features: int, *, normalised: bool) -> int:
    """Counts what the papers add to the decoder's products, see ``macs.ELEMENTWISE``: a
    projection's bias, or its norm and ReLU; the fused map's norm and ReLU."""
    positions = [(height // stride) * (width // stride) for stride in STRIDES[: len(channels)]]
    return ((3 if normalised else 2) * sum(positions) + 3 * positions[0]) * features
