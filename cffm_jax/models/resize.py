"""Bilinear resizing with half-pixel centres and no antialias, as PyTorch's ``align_corners=False``.

Unlike ``jax.image.resize``, no dense product at highest precision, nor a filter on shrinking.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Float64, Int32

from cffm_jax.models.by_platform import by_platform
from cffm_jax.models.gather import take
from cffm_jax.models.operators import operator


@functools.cache
def neighbours(
    size_in: int, size_out: int
) -> tuple[Int32[np.ndarray, " {size_out}"], Int32[np.ndarray, " {size_out}"], Float64[np.ndarray, " {size_out}"]]:
    """For each output position its two input positions and the share of the second one."""
    source = np.clip((np.arange(size_out) + 0.5) * (size_in / size_out) - 0.5, 0, size_in - 1)
    low = np.floor(source).astype(np.int32)
    return low, np.minimum(low + 1, size_in - 1), source - low


@functools.cache
def readers(
    size_in: int, size_out: int
) -> tuple[Int32[np.ndarray, "most {size_in}"], Float32[np.ndarray, "most {size_in}"]]:
    """For each input position the output positions that read it, and by what weight: the transpose
    of the resize as a gather. Where fewer than the most do, the rest are 0 and weigh nothing."""
    matrix = interpolation_matrix(size_in, size_out)
    most = np.count_nonzero(matrix, 0).max()
    order = np.argsort(matrix == 0, 0, kind="stable")[:most]
    weights = np.take_along_axis(matrix, order, 0)
    return np.where(weights, order, 0).astype(np.int32), weights


@functools.cache
def interpolation_matrix(size_in: int, size_out: int) -> Float32[np.ndarray, "{size_out} {size_in}"]:
    """Bilinear weights of a resize with half-pixel centres, clamped at the borders."""
    low, high, share = neighbours(size_in, size_out)
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


def lerp(x: Float[Array, ...], axis: int, low: np.ndarray, high: np.ndarray, share: np.ndarray) -> Float[Array, ...]:
    """Positions of the resized axis, given by (some of) their ``neighbours``; a gather."""
    return between(take(x, axis, low), take(x, axis, high), axis, share)


def between(low: Float[Array, ...], high: Float[Array, ...], axis: int, share: np.ndarray) -> Float[Array, ...]:
    """Values between two, by the share of the second at each position of an axis."""
    weight = share.astype(np.float32).reshape((-1,) + (1,) * (low.ndim - axis - 1)).astype(low.dtype)
    return low + weight * (high - low)


def transposed(x: Float32[Array, ...], axis: int, size_in: int) -> Float32[Array, ...]:
    """The transpose of the resize of an axis from ``size_in``: a sum of gathers."""
    total = jnp.zeros((*x.shape[:axis], size_in, *x.shape[axis + 1 :]), x.dtype)
    for at, weight in zip(*readers(size_in, x.shape[axis])):
        total += weight.reshape((-1,) + (1,) * (x.ndim - axis - 1)) * take(x, axis, at)
    return total


def resize_axis(x: Float[Array, ...], axis: int, size: int) -> Float[Array, ...]:
    """Resizes one axis. On CPUs a gather takes longer than slices, where these do; on GPUs it is
    part of what reads it."""
    size_in = x.shape[axis]
    if size == size_in:
        return x
    if size_in == 2 * size:
        return _halve(x, axis)

    def gathered(x: jax.Array) -> jax.Array:
        return lerp(x, axis, *neighbours(size_in, size))

    if size % size_in:
        return gathered(x)
    return by_platform(x, cpu=lambda x: _enlarge(x, axis, size // size_in), default=gathered)


def resize_corners(x: Float[Array, "N _ _ ..."], size: tuple[int, int]) -> Float[Array, "N _ _ ..."]:
    """Bilinear resize to (H, W) that keeps corner pixels' centres at the corners (PyTorch's
    ``align_corners=True``)."""
    for axis, length in zip((1, 2), size):
        source = np.linspace(0, x.shape[axis] - 1, length)
        low = np.floor(source).astype(np.int32)
        x = lerp(x, axis, low, np.minimum(low + 1, x.shape[axis] - 1), source - low)
    return x


@operator
def resize_bilinear(x: Float[Array, ...], size: tuple[int, int]) -> Float[Array, ...]:
    """Bilinear resize with half-pixel centres and no antialias (PyTorch's ``align_corners=False``).

    Args:
      x: [N, H, W, ...]. Its type is kept.
      size: the new (H, W).
    """
    # Shrink first: the second axis then has less to do.
    order = sorted(zip((1, 2), size), key=lambda pair: pair[1] / x.shape[pair[0]])
    for axis, length in order:
        x = resize_axis(x, axis, length)
    return x
