"""Bilinear resizing with half-pixel centres and no antialias, as PyTorch's ``align_corners=False``.

Unlike ``jax.image.resize``, no dense product at highest precision, nor a filter on shrinking.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32


def _neighbours(size_in: int, size_out: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each output position its two input positions i32 and the share f64 of the second one."""
    source = np.clip((np.arange(size_out) + 0.5) * (size_in / size_out) - 0.5, 0, size_in - 1)
    low = np.floor(source).astype(np.int32)
    return low, np.minimum(low + 1, size_in - 1), source - low


@functools.cache
def interpolation_matrix(size_in: int, size_out: int) -> Float32[np.ndarray, "{size_out} {size_in}"]:
    """Bilinear weights of a resize with half-pixel centres, clamped at the borders."""
    low, high, share = _neighbours(size_in, size_out)
    matrix = np.zeros((size_out, size_in), np.float64)
    rows = np.arange(size_out)
    np.add.at(matrix, (rows, low), 1.0 - share)
    np.add.at(matrix, (rows, high), share)
    return matrix.astype(np.float32)


def _enlarge(x: jax.Array, axis: int, factor: int) -> jax.Array:
    """Bilinear enlargement by an integer: each output phase lerps two neighbours; no gather."""
    size = x.shape[axis]
    first = jax.lax.slice_in_dim(x, 0, 1, axis=axis)
    last = jax.lax.slice_in_dim(x, size - 1, size, axis=axis)
    before = jnp.concatenate([first, jax.lax.slice_in_dim(x, 0, size - 1, axis=axis)], axis)
    after = jnp.concatenate([jax.lax.slice_in_dim(x, 1, size, axis=axis), last], axis)
    phases = []
    for phase in range(factor):
        shift = (phase + 0.5) / factor - 0.5
        neighbour = before if shift < 0 else after
        phases.append(x + abs(shift) * (neighbour - x))
    shape = x.shape[:axis] + (size * factor,) + x.shape[axis + 1 :]
    return jnp.stack(phases, axis + 1).reshape(shape)


def _halve(x: jax.Array, axis: int) -> jax.Array:
    shape = x.shape[:axis] + (x.shape[axis] // 2, 2) + x.shape[axis + 1 :]
    return jnp.mean(x.reshape(shape), axis + 1)


def _resize_axis(x: jax.Array, axis: int, size: int) -> jax.Array:
    size_in = x.shape[axis]
    if size == size_in:
        return x
    if size % size_in == 0:
        return _enlarge(x, axis, size // size_in)
    if size_in == 2 * size:
        return _halve(x, axis)
    low, high, share = _neighbours(size_in, size)
    weight = share.astype(np.float32).reshape((-1,) + (1,) * (x.ndim - axis - 1)).astype(x.dtype)
    at_low, at_high = jnp.take(x, low, axis=axis), jnp.take(x, high, axis=axis)
    return at_low + weight * (at_high - at_low)


def resize_bilinear(x: Float[Array, ...], size: tuple[int, int]) -> Float[Array, ...]:
    """Bilinear resize with half-pixel centres and no antialias (PyTorch's ``align_corners=False``).

    Args:
      x: [N, H, W, ...]. Its type is kept.
      size: the new (H, W).
    """
    # Shrink first: the second axis then has less to do.
    order = sorted(zip((1, 2), size), key=lambda pair: pair[1] / x.shape[pair[0]])
    for axis, length in order:
        x = _resize_axis(x, axis, length)
    return x
