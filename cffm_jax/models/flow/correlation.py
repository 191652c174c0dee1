"""All-pairs correlation of two feature maps, and what RAFT looks up in it.

Source: Teed and Deng, "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow" (ECCV 2020),
section 3.2. Dimension key: N pairs, h w the maps at stride 8, P = N h w, C channels, r a radius.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from cffm_jax.models.flow.bilinear import pad, sample

LEVELS = 4


def correlate(
    features1: Float[Array, "N h w C"], features2: Float[Array, "N h w C"], radius: int
) -> list[Float32[Array, "N*h*w _ _ 1"]]:
    """For each level l and pixel of frame 1, its correlation f1 . f2 / sqrt(C) with frame 2,
    averaged over 2^l x 2^l pixels, within the border that ``look_up`` reads.

    The average of products is the product with averages: features are pooled and padded, which is
    less work than to pool and pad what they give.
    """
    n, h, w, c = features1.shape
    first = features1.astype(jnp.float32) / jnp.sqrt(jnp.float32(c))
    second, volumes = features2.astype(jnp.float32), []
    for level in range(LEVELS):
        second = nn.avg_pool(second, window_shape=(2, 2), strides=(2, 2)) if level else second
        volume = jnp.einsum("nhwc,nyxc->nhwyx", first, pad(second, radius), precision="highest")
        volumes.append(volume.reshape(n * h * w, *volume.shape[3:], 1))
    return volumes


def look_up(
    volumes: Sequence[Float32[Array, "P _ _ 1"]], positions: Float32[Array, "N h w 2"], radius: int
) -> Float32[Array, "N h w _"]:
    """Correlation of each pixel of frame 1 with the surroundings of where it is in frame 2.

    Args:
      volumes: of ``correlate``.
      positions: (x, y) in frame 2, in pixels of level 0.
      radius: r; level l is read at (x, y) / 2^l + d for each d in -r..r, x slow and y fast.

    Returns:
      (2 r + 1)^2 samples of a level, one level after the other.
    """
    n, h, w, _ = positions.shape
    flat = positions.reshape(n * h * w, 1, 2)
    levels = [
        sample(volume, flat / 2**level, radius).swapaxes(2, 3).reshape(n, h, w, -1)
        for level, volume in enumerate(volumes)
    ]
    return jnp.concatenate(levels, -1)
