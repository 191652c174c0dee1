"""Frames on the device: they travel as bytes and are normalised here."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int32, UInt8

# ImageNet's statistics of RGB in 0..255.
MEAN = np.array((123.675, 116.28, 103.53), np.float32)
STD = np.array((58.395, 57.12, 57.375), np.float32)


def normalise(
    frames: UInt8[Array, "b *more h w 3"], size: Int32[Array, "b 2"] | None = None
) -> Float32[Array, "b *more h w 3"]:
    """Normalised frames, zero where they are padding.

    Args:
      frames: RGB.
      size: height and width of each clip that are no padding; None if there is none.
    """
    x = (frames.astype(jnp.float32) - MEAN) / STD
    if size is None:
        return x
    height, width = x.shape[-3:-1]
    inside = (jnp.arange(height) < size[:, :1])[:, :, None] & (jnp.arange(width) < size[:, 1:])[:, None, :]
    inside = inside.reshape(len(size), *[1] * (x.ndim - 4), height, width, 1)
    return jnp.where(inside, x, 0.0)
