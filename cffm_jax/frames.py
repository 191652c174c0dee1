"""Frames on the device: they travel as bytes and are normalised here."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

# ImageNet's statistics of RGB in 0..255.
MEAN = np.array((123.675, 116.28, 103.53), np.float32)
STD = np.array((58.395, 57.12, 57.375), np.float32)


def normalise(frames: jax.Array, size: jax.Array | None = None) -> jax.Array:
    """Normalised frames, zero where they are padding.

    Args:
      frames: u8[B, T, H, W, 3] (or u8[..., H, W, 3] without ``size``), RGB.
      size: i32[B, 2], height and width of each clip that are no padding; None if there is none.

    Returns:
      f32 of the frames' shape.
    """
    x = (frames.astype(jnp.float32) - MEAN) / STD
    if size is None:
        return x
    rows = jnp.arange(x.shape[2]) < size[:, :1]
    columns = jnp.arange(x.shape[3]) < size[:, 1:]
    inside = rows[:, None, :, None, None] & columns[:, None, None, :, None]
    return jnp.where(inside, x, 0.0)
