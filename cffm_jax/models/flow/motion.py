"""What training along optical flow compares: the logits of neighbouring frames (ETC, Liu et al.,
ECCV 2020, Eq. 1 and 2, as the VSPW baselines compute it).

Dimension key: N pairs of frames, H W their sides, h w the map of the logits, K classes.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float32

from cffm_jax.models.flow.warp import Grid, warp
from cffm_jax.models.resize import resize_bilinear


def motion_loss(
    frames: Float32[Array, "N H W 3"],
    previous: Float32[Array, "N H W 3"],
    logits: Float32[Array, "N h w K"],
    previous_logits: Float32[Array, "N h w K"],
    flow: Float32[Array, "N H W 2"],
    grid: Grid,
) -> Float32[Array, ""]:
    """Mean over all pixels and classes of (m (z - warp(z')))^2: z and z' are the logits of frames
    and of those before, enlarged to them, and m = exp(-|sum over RGB of (I - warp(I'))|).

    Args:
      frames: normalised.
      previous: those before, likewise.
      flow: from the frames to the previous ones, in pixels.
      grid: of ``warp``.
    """
    _, height, width, _ = frames.shape
    mask = jnp.exp(-jnp.abs(jnp.sum(frames - warp(previous, flow, grid), -1, keepdims=True)))
    here, there = (resize_bilinear(each, (height, width)) for each in (logits, previous_logits))
    return jnp.mean(jnp.square(mask * (here - warp(there, flow, grid))))
