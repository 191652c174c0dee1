"""The ring of what later targets read of a frame: the frame that a stream sees at time t is in
place t mod L.

Dimension key: S streams, n frames of a step, m targets of a step, R references, L places.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int32

from cffm_jax.data import clips
from cffm_jax.models.methods.method import Tree


def how_far_back(offsets: Sequence[int]) -> Int32[np.ndarray, "_ {len(offsets)}"]:
    """By the frames that a stream has seen (M: or more), how many frames ago its references were. 0
    is the target itself: it stands in for all where there are none, and early on for one that lies
    close."""
    ages = range(max(offsets, default=0) + 1)
    indices = (clips.reference_indices(age, offsets) or (age,) * len(offsets) for age in ages)
    rows = [[age - index for index in row] for age, row in zip(ages, indices)]
    return np.array(rows, np.int32).reshape(len(ages), len(offsets))


def write(ring: tuple[Tree, ...], remembered: tuple[Tree, ...], clock: jax.Array) -> tuple[Tree, ...]:
    """The ring with what is remembered of the step's frames [S * n, ...] in their places, which
    follow on each other: L is a multiple of n."""

    def put(places: jax.Array, new: jax.Array) -> jax.Array:
        streams = places.shape[1]
        in_time = jnp.moveaxis(new.reshape(streams, -1, *new.shape[1:]), 1, 0)
        return jax.lax.dynamic_update_slice_in_dim(places, in_time, clock % len(places), 0)

    return jax.tree.map(put, ring, remembered)


def read(ring: tuple[Tree, ...], times: jax.Array, references: Sequence[str]) -> tuple[Tree, ...]:
    """For each reference the arrays [S * m, ...] of the frames of ``times`` i32[S, m, R]."""

    def of(places: jax.Array, at: jax.Array) -> jax.Array:
        count, streams = places.shape[:2]
        flat = places.reshape(
            -1, *places.shape[2:]
        )  # One axis to gather on: engines of ONNX have that as one operator.
        index = (at % count) * streams + np.arange(streams, dtype=np.int32)[:, None]
        return flat.at[index.reshape(-1)].get(mode="promise_in_bounds")

    entries = ring * len(references) if len(ring) == 1 else ring
    return tuple(jax.tree.map(lambda places, r=r: of(places, times[..., r]), entry) for r, entry in enumerate(entries))
