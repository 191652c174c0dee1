"""Means of a map over bins of several sizes, as PSPNet pools it.

Dimension key: N images, h w sides of a map, s side of a pooled one, C channels.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

SIDES = (1, 2, 3, 6)
"""Sides of the pooled maps."""

Pyramid = tuple[Float[Array, "N _ _ C"], ...]
"""The means of a map over s x s bins for each of ``SIDES``: [N, s, s, C]."""


def pyramid(x: Float[Array, "N h w C"]) -> Pyramid:
    """Averages over bins, float32: bin i of s over n positions covers floor(i n / s) to ceil((i +
    1) n / s) - 1; bins may overlap."""
    return tuple(bin_means(x, (side, side)) for side in SIDES)


def bin_means(x: Float[Array, "N h w C"], size: tuple[int, int]) -> Float32[Array, "N {size[0]} {size[1]} C"]:
    """Averages over so many bins along y and x."""
    bins = (jnp.asarray(_bins(n, count)) for n, count in zip(x.shape[1:3], size, strict=True))
    return jnp.einsum("ih,jw,nhwc->nijc", *bins, x.astype(jnp.float32), precision="highest")


def _bins(length: int, count: int) -> np.ndarray:
    """f32[count, length]: the weight of each position in each bin."""
    weights = np.zeros((count, length), np.float32)
    for i in range(count):
        start, stop = i * length // count, -(-(i + 1) * length // count)
        weights[i, start:stop] = 1 / (stop - start)
    return weights
