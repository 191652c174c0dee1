"""Frames on the device: they travel as the files have them and are normalised here."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int32, Shaped

from cffm_jax.channels import COLOURS, Channels


def denormalise(frames: Float32[Array, "*more 3"]) -> Float32[Array, "*more 3"]:
    """RGB in 0..255 of normalised frames; the mean colour where they are padding."""
    return frames * np.array(COLOURS.std, np.float32) + np.array(COLOURS.mean, np.float32)


def normalise(
    frames: Shaped[Array, "b *more h w K"], size: Int32[Array, "b 2"] | None = None, channels: Channels = COLOURS
) -> Float32[Array, "b *more h w K"]:
    """Normalised frames, zero where they are padding.

    Args:
      frames: u8 in RGB, f32 of other channels.
      size: height and width of each clip that are no padding; None if there is none.
      channels: of the frames.

    Raises:
      ValueError: they are of another type, or have other channels.
    """
    if frames.dtype != channels.dtype or frames.shape[-1] != len(channels):
        wanted = f"{channels.dtype}[..., {len(channels)}]"
        raise ValueError(f"frames are {frames.dtype}{list(frames.shape)}, not {wanted} ({', '.join(channels.names)})")
    x = (frames.astype(jnp.float32) - np.array(channels.mean, np.float32)) / np.array(channels.std, np.float32)
    if size is None:
        return x
    height, width = x.shape[-3:-1]
    inside = (jnp.arange(height) < size[:, :1])[:, :, None] & (jnp.arange(width) < size[:, 1:])[:, None, :]
    inside = inside.reshape(len(size), *[1] * (x.ndim - 4), height, width, 1)
    return jnp.where(inside, x, 0.0)
