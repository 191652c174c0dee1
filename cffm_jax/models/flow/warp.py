"""Maps moved along a flow.

Dimension key: N maps, H W their sides, C channels.
"""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from cffm_jax.models.flow.bilinear import pad, pixels, sample
from cffm_jax.models.resize import resize_bilinear

Grid = Literal["exact", "release"]


def resize_flow(flow: Float32[Array, "N H W 2"], size: tuple[int, int]) -> Float32[Array, "N {size[0]} {size[1]} 2"]:
    """Flow at the positions of a map of sides ``size``, in its pixels."""
    _, h, w, _ = flow.shape
    return resize_bilinear(flow, size) * np.array([size[1] / w, size[0] / h], np.float32)


def warp(
    x: Float[Array, "N H W C"],
    flow: Float32[Array, "N H W 2"],
    grid: Grid = "exact",
    outside: Literal["zero", "border"] = "zero",
) -> Float[Array, "N H W C"]:
    """Samples of a map where the flow of each pixel p points; bilinear.

    It can be differentiated with respect to both. The blends and sums are in float32; the type of
    ``x`` is kept.

    Args:
      x: for example of the frame before.
      flow: (x, y) in pixels, from the present frame to that one.
      grid: "exact" samples at p + flow(p); "release" as the code that the VSPW authors released
        for ETC and NetWarp, at (p + flow(p)) n / (n - 1) - 0.5 on an axis of n pixels.
      outside: what is there: zeros, or the nearest pixel of the map.

    Raises:
      ValueError: "release" with a side of one pixel.
    """
    n, h, w, c = x.shape
    at = pixels(h, w) + flow
    if grid == "release":
        if min(h, w) < 2:
            raise ValueError(f"a map of {h}x{w} cannot be warped by the grid of the release: give sides of 2 or more")
        sides = np.array([w, h], np.float32)
        at = at * (sides / (sides - 1)) - 0.5
    if outside == "border":
        at = jnp.clip(at, 0, np.array([w - 1, h - 1], np.float32))
    return sample(pad(x.astype(jnp.float32)), at.reshape(n, h * w, 2)).reshape(n, h, w, c).astype(x.dtype)
