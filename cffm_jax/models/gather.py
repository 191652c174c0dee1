"""Gathers by static indices, whose gradients are gathered too, from the places that read each
element.

A scatter, which is what JAX makes of a gather backwards, adds with atomic operations on GPUs:
slowly, in changing order, and in the elements' own type. Sums here are in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32, Integer, Shaped


def take(x: Shaped[Array, ...], axis: int, index: Integer[np.ndarray, ...]) -> Shaped[Array, ...]:
    """``jnp.take`` of positions within the axis."""
    return take_of((x,), axis, index)


def take_of(parts: Sequence[Shaped[Array, ...]], axis: int, index: Integer[np.ndarray, ...]) -> Shaped[Array, ...]:
    """``jnp.take`` of arrays joined along the axis; of the position after the last, zeros.

    It can be differentiated backwards, once.
    """
    sizes = [part.shape[axis] for part in parts]

    @jax.custom_vjp
    def taken(parts: tuple[jax.Array, ...]) -> jax.Array:
        joined = list(parts)
        if index.max(initial=0) == sum(sizes):
            shape = (*parts[0].shape[:axis], 1, *parts[0].shape[axis + 1 :])
            joined.append(jnp.zeros(shape, parts[0].dtype))
        whole = jnp.concatenate(joined, axis) if len(joined) > 1 else joined[0]
        return _at(whole, axis, index)

    def back(_: None, gradient: jax.Array) -> tuple[tuple[jax.Array, ...]]:
        shape = gradient.shape
        gradient = gradient.reshape(*shape[:axis], index.size, *shape[axis + index.ndim :])
        sums = [_summed(gradient, axis, *table) for table in readers(index, sizes)]
        return (tuple(total.astype(gradient.dtype) for total in sums),)

    taken.defvjp(lambda parts: (taken(parts), None), back)
    return taken(tuple(map(jnp.asarray, parts)))


def readers(
    index: Integer[np.ndarray, ...], sizes: Sequence[int]
) -> list[tuple[Int32[np.ndarray, "_ _"], Int32[np.ndarray, " _"]]]:
    """For each part, which has so many elements, the flat places of the index that read each of
    them, and how many do. Rows are as long as the most that do; the rest of a row is 0."""
    order = np.argsort(index, axis=None, kind="stable")
    counts = np.bincount(index.ravel(), minlength=sum(sizes) + 1)
    first = np.cumsum(counts) - counts
    tables, begin = [], 0
    for size in sizes:
        count, start = (x[begin : begin + size] for x in (counts, first))
        slots = np.arange(count.max(initial=0))
        there = slots < count[:, None]
        places = order[np.where(there, start[:, None] + slots, 0)]
        tables.append((np.where(there, places, 0).astype(np.int32), count.astype(np.int32)))
        begin += size
    return tables


def _at(x: jax.Array, axis: int, index: np.ndarray) -> jax.Array:
    return x.at[(*(slice(None),) * axis, index)].get(mode="promise_in_bounds")


def _summed(x: jax.Array, axis: int, places: np.ndarray, count: np.ndarray) -> jax.Array:
    """Sums in float32 of the first ``count`` of each row of places."""
    there = np.arange(places.shape[1]) < count[:, None]
    read = _at(x, axis, places).astype(jnp.float32)
    there = there.reshape(*there.shape, *(1,) * (read.ndim - axis - 2))
    return jnp.sum(jnp.where(there, read, 0.0), axis + 1)
