"""Windows of a target's map, and what each reads of that map unpooled (CFFM section 3.2).

A map is cut into windows of s x s positions. The *fine* context of a window is the target's own
region: the window and a halo that wraps around the map, in the release 13x13 of s = 7 and a halo of
3. Without a halo it is the window alone, the papers' (r_t, p_t) = (s, 1).

Dimension key: N maps, h w sides of a map, C channels, D channels of a head, A heads, nh nw windows
a side, K side of what is read.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32, Int64

from cffm_jax.models.gather import take

WINDOW = 7
"""s of the papers and the release."""
HALO = 3
"""Positions around a window that the release reads."""


def ring_tokens(window: int = WINDOW, halo: int = HALO) -> int:
    """Entries of the ring around a window, see ``ring_index``: 132 in the release."""
    return 4 * (window**2 - (window - halo) ** 2)


def padded_size(size: int, window: int = WINDOW) -> int:
    """The least multiple of the window side that holds ``size``."""
    return -(-size // window) * window


def pad_to_windows(x: Float[Array, "N h w C"], window: int = WINDOW) -> Float[Array, "N _ _ C"]:
    """Pads a map to whole windows, with zeros at the bottom and right."""
    _, h, w, _ = x.shape
    return jnp.pad(x, ((0, 0), (0, padded_size(h, window) - h), (0, padded_size(w, window) - w), (0, 0)))


def split_windows(
    x: Float[Array, "*lead H W D"], window: int = WINDOW
) -> Float[Array, "*lead H//{window} W//{window} {window}**2 D"]:
    """Cuts a map of whole windows into its windows."""
    *lead, height, width, d = x.shape
    nh, nw = height // window, width // window
    x = x.reshape(*lead, nh, window, nw, window, d)
    return jnp.swapaxes(x, -3, -4).reshape(*lead, nh, nw, window**2, d)


def join_windows(
    x: Float[Array, "*lead nh nw {window}**2 D"], window: int = WINDOW
) -> Float[Array, "*lead nh*{window} nw*{window} D"]:
    """The inverse of ``split_windows``."""
    *lead, nh, nw, _, d = x.shape
    x = jnp.swapaxes(x.reshape(*lead, nh, nw, window, window, d), -3, -4)
    return x.reshape(*lead, nh * window, nw * window, d)


def fine_index(
    nh: int, nw: int, window: int = WINDOW, halo: int = HALO
) -> Int64[np.ndarray, "{nh} {nw} ({window}+2*{halo})**2"]:
    """Flat index into the padded target map of each window's region, 13x13 in the release."""
    reach = np.arange(-halo, window + halo)
    rows = (window * np.arange(nh)[:, None] + reach) % (window * nh)
    columns = (window * np.arange(nw)[:, None] + reach) % (window * nw)
    index = rows[:, None, :, None] * (window * nw) + columns[None, :, None, :]
    return index.reshape(nh, nw, -1)


@functools.cache
def relative_index(reach: int, window: int = WINDOW) -> Int32[np.ndarray, "{window}**2 {reach}**2"]:
    """Index into a flat (s - 1 + K) x (s - 1 + K) table: row yq - yk + K - 1, column xq - xk + K -
    1."""
    q, k = np.arange(window), np.arange(reach)
    difference = q[:, None] - k[None, :] + reach - 1  # [s, K]
    index = difference[:, None, :, None] * (window - 1 + reach) + difference[None, :, None, :]
    return index.reshape(window**2, reach**2).astype(np.int32)


@functools.cache
def ring_index(window: int = WINDOW, halo: int = HALO) -> Int32[np.ndarray, "({window}+2*{halo})**2 2"]:
    """For each token of the region the ring entries that read it, their number for none.

    The ring is four copies of the map at offsets (+-halo, +-halo). In the release it has 132
    entries, 33 positions of a window each: 12 of the 120 positions outside the window are read
    twice (specification section 3, point 3).
    """
    side = window + 2 * halo
    i, j = np.mgrid[0:window, 0:window]
    low, high = halo, window - halo
    copies = [
        (halo, halo, (i >= high) | (j >= high)),
        (halo, -halo, (i >= high) | (j < low)),
        (-halo, halo, (i < low) | (j >= high)),
        (-halo, -halo, (i < low) | (j < low)),
    ]
    readers: list[list[int]] = [[] for _ in range(side**2)]
    entry = 0
    for down, right, kept in copies:
        for y, x in zip(i[kept] + down + halo, j[kept] + right + halo):
            readers[y * side + x].append(entry)
            entry += 1
    return np.array([(r + [entry, entry])[:2] for r in readers], np.int32)


def fine_bias(
    inside: Float32[Array, "A 2*{window}-1 2*{window}-1"],
    ring: Float32[Array, "A {window}**2 _"] | None,
    window: int = WINDOW,
    halo: int = HALO,
) -> Float32[Array, "A {window}**2 ({window}+2*{halo})**2"]:
    """Position bias of the region. A token that the ring reads twice gets logaddexp of its two
    biases: the softmax then gives it the weight of both. ``ring``: None without a halo."""
    heads, side = inside.shape[0], window + 2 * halo
    inner = take(inside.reshape(heads, -1), 1, relative_index(window, window))
    if ring is None:
        return inner
    absent = jnp.full((heads, window**2, 1), -1e9, ring.dtype)
    ring = jnp.concatenate([ring, absent], -1)
    first, second = ring_index(window, halo).T
    merged = jnp.logaddexp(take(ring, 2, first), take(ring, 2, second)).reshape(heads, window**2, side, side)
    inner = inner.reshape(heads, window**2, window, window)
    low, high = halo, halo + window
    middle = jnp.concatenate([merged[:, :, low:high, :low], inner, merged[:, :, low:high, high:]], 3)
    whole = jnp.concatenate([merged[:, :, :low], middle, merged[:, :, high:]], 2)
    return whole.reshape(heads, window**2, side**2)
