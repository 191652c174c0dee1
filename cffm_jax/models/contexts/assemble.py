"""Gathers the context tokens of all windows (CFFM section 3.2, Eq. 3) by the tables of ``cffa``.

Dimension key: as there; L counts clips and heads.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cffm_jax.models.contexts.cffa import PooledSource, context_index
from cffm_jax.models.contexts.windows import HALO, REGION, WINDOW


def assemble(
    fine: Float[Array, "L H W D"],
    grids: Sequence[Float[Array, "L _ _ D"]],
    sources: tuple[PooledSource, ...],
    form: Literal["take", "slices"] = "take",
    halo: int = HALO,
) -> Float[Array, "L H//{sources[0].window} W//{sources[0].window} _ D"]:
    """Gathers each window's context: the target's own region, then the sources' cells in order.

    Args:
      fine: keys or values of the target, padded; L counts clips and heads.
      grids: those of each source, pooled.
      sources: their rows of the table, the target's first.
      form: "take" gathers by static indices; "slices" cuts and stacks, without gather and
        (backwards) scatter. Both give the same bits; ``benchmarks/context.py`` races them. On CPUs
        "take" is faster both ways.
      halo: positions around a window in the target's region.

    Returns:
      169 + sum K * K tokens a window in the release; cells outside the map are zero.
    """
    if form == "slices":
        if halo != HALO or any(type(s) is not PooledSource or s.window != WINDOW for s in sources):
            raise ValueError("only the release's contexts can be cut in slices")
        pooled = [_pooled_slices(grid, source) for grid, source in zip(grids, sources, strict=True)]
        return jnp.concatenate([_fine_slices(fine), *pooled], axis=3)
    lead, height, width, d = fine.shape
    window = sources[0].window
    index = context_index(height // window, width // window, sources, halo)
    tokens = [x.reshape(lead, -1, d) for x in (fine, *grids)] + [jnp.zeros((lead, 1, d), fine.dtype)]
    return jnp.concatenate(tokens, 1).at[:, index].get(mode="promise_in_bounds")


def _halo_axis(x: jax.Array, axis: int) -> jax.Array:
    """Splits an axis of n * 7 into [n, 13]: each window and 3 neighbours a side, wrapped around."""
    size = x.shape[axis]
    cut = functools.partial(jax.lax.slice_in_dim, axis=axis)
    x = jnp.concatenate([cut(x, size - HALO, size), x, cut(x, 0, WINDOW - HALO)], axis)
    blocks = x.reshape(x.shape[:axis] + (size // WINDOW + 1, WINDOW) + x.shape[axis + 1 :])
    first = jax.lax.slice_in_dim(blocks, 0, size // WINDOW, axis=axis)
    second = jax.lax.slice_in_dim(blocks, 1, size // WINDOW + 1, axis=axis)
    return jnp.concatenate([first, jax.lax.slice_in_dim(second, 0, 2 * HALO, axis=axis + 1)], axis + 1)


def _fine_slices(x: jax.Array) -> jax.Array:
    """Each window's 13x13 region: [L, nh * 7, nw * 7, D] -> [L, nh, nw, 169, D]."""
    lead, height, width, d = x.shape
    x = _halo_axis(_halo_axis(x, 2), 1)  # [L, nh, 13, nw, 13, D]
    return jnp.swapaxes(x, 2, 3).reshape(lead, height // WINDOW, width // WINDOW, REGION**2, d)


def _reach_axis(x: jax.Array, axis: int, source: PooledSource) -> jax.Array:
    """Splits an axis of n * m cells into [n, K]: around each window's first one, zeros outside."""
    m, k = source.cells, source.reach
    count = x.shape[axis] // m
    padding = [(0, 0)] * x.ndim
    padding[axis] = (k // 2, k // 2)
    x = jnp.pad(x, padding)
    slices = [jax.lax.slice_in_dim(x, u, u + (count - 1) * m + 1, m, axis) for u in range(k)]
    return jnp.stack(slices, axis + 1)


def _pooled_slices(x: jax.Array, source: PooledSource) -> jax.Array:
    """The cells that windows read, or zeros: [L, nh * m, nw * m, D] -> [L, nh, nw, K * K, D]."""
    lead, height, width, d = x.shape
    x = _reach_axis(_reach_axis(x, 2, source), 1, source)  # [L, nh, K, nw, K, D]
    return jnp.swapaxes(x, 2, 3).reshape(lead, height // source.cells, width // source.cells, source.tokens, d)
