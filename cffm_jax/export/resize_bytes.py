"""OpenCV's bilinear resize of bytes, to the bit: OpenCV 5.0's on x86-64, others may round another
way. Whole numbers below 2^24 alone: engines that divide them as float32 have them exactly, and
16-bit floats do not touch them.
"""

from __future__ import annotations

import jax.lax
import numpy as np
from jaxtyping import Array, Int, Int32

from cffm_jax.models.gather import take

_ONE = 2048
"""OpenCV's weights are whole numbers of this size."""
Taps = list[tuple[Int[np.ndarray, " size"], Int32[np.ndarray, " size"]]]


def resize_bytes(x: Int32[Array, "S H0 W0 K"], size: tuple[int, int]) -> Int32[Array, "S H W K"]:
    """``cv2.resize(x, (W, H))`` of numbers 0..255. First along rows; along columns OpenCV cuts off
    digits before each product and after it, and rounds the sum's last two bits."""
    height, width = x.shape[1:3]
    if (height, width) == size:
        return x
    if width == size[1]:
        rows = x * _ONE
    else:
        (left, first), (right, second) = _taps(width, size[1], clamped=True)
        rows = take(x, 2, left) * first[:, None] + take(x, 2, right) * second[:, None]
    if height == size[0]:
        total = jax.lax.div(rows, 512)
    else:
        # weight * (rows // 16) // 65536 in two parts: the product has more than 24 bits.
        high = jax.lax.div(rows, 256)
        low = jax.lax.div(rows, 16) - 16 * high
        products = []
        for at, weight in _taps(height, size[0], clamped=False):
            rest = jax.lax.div(take(low, 1, at) * weight[:, None, None], 16)
            products.append(jax.lax.div(take(high, 1, at) * weight[:, None, None] + rest, 4096))
        total = products[0] + products[1]
    return jax.lax.div(total + 2, 4)


def _taps(size_in: int, size_out: int, *, clamped: bool) -> Taps:
    """The two input positions of each output position, and their weights. Outside of the input
    OpenCV takes its border, once with all of the weight (``clamped``) or twice with its parts."""
    source = ((np.arange(size_out) + 0.5) * (size_in / size_out) - 0.5).astype(np.float32)
    low = np.floor(source)
    share = source - low
    if clamped:
        share = np.where((low < 0) | (low >= size_in - 1), np.float32(0), share)
    places = (np.clip(low + i, 0, size_in - 1).astype(np.int32) for i in range(2))
    weights = (np.rint(each * _ONE).astype(np.int32) for each in (1 - share, share))
    return list(zip(places, weights, strict=True))
