"""Coarse-to-fine feature assembling (CFFM section 3.2, Eq. 2): the tokens a target window reads.

Every context is a row of a table; the static indices, masks and bias shapes follow from it for any
feature size. A map is cut into windows of 7x7. A *pooled source* turns each window into cells x
cells tokens, one learned weight a position; window (a, b) reads the reach x reach cells centred on
its first cell. The *fine* source is the target's own 13x13 region, the window and a halo of 3 that
wraps around the map.

Dimension key: N clips, C channels, D channels of a head, h w sides of a map at stride 8, nh nw
windows a side, W = 7 window side, m cells a side of a window, p pooling side, K reach.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int32, Int64

from cffm_jax.config import ModelConfig
from cffm_jax.models.resize import interpolation_matrix

WINDOW = 7
HALO = 3
REGION = WINDOW + 2 * HALO
RING_TOKENS = 132
MASKED = -100.0
"""Added to the logits of cells outside the map."""


@dataclasses.dataclass(frozen=True)
class PooledSource:
    """One row of the context table.

    Attributes:
      name: role of the tokens, and the name of their parameters.
      cells: m, tokens a side that a window is pooled into.
      pool: p, side of the pooling; the window is first resized to m * p a side if that is not 7.
      reach: K, side of the neighbourhood of cells that a window reads (odd).
    """

    name: str
    cells: int
    pool: int
    reach: int

    @property
    def tokens(self) -> int:
        return self.reach**2

    @property
    def bias_side(self) -> int:
        return WINDOW - 1 + self.reach

    @property
    def field(self) -> tuple[float, float]:
        """Where the region that a window reads begins and ends, from its own first position."""
        side, before = WINDOW / self.cells, self.reach // 2
        return -before * side, (self.reach - before) * side

    def pooling_products(self, executed: bool) -> int:
        """Products of pooling a window, a channel. Released: p * p weights for each cell; here the
        resize is part of the product: 49 for each."""
        return self.cells**2 * (WINDOW**2 if executed else self.pool**2)

    def pooled(
        self, x: Float[Array, "N H W C"], weight: Float[Array, " P"], bias: Float[Array, " 1"]
    ) -> Float[Array, "N _ _ C"]:
        """The grid of cells of a padded map."""
        return pool(x, weight, bias, self)

    def cell_index(
        self, nh: int, nw: int
    ) -> tuple[Int64[np.ndarray, "{nh} {nw} {self.tokens}"], Bool[np.ndarray, "{nh} {nw} {self.tokens}"]]:
        """Flat index into the grid, and whether the cell lies outside it (index 0 then)."""
        return cell_index(nh, nw, self)


TARGET = PooledSource("target", cells=1, pool=7, reach=5)

WINDOW_CELLS = {7: (1, 7), 5: (1, 7), 4: (2, 3), 3: (2, 3), 2: (3, 2), 1: (7, 1)}
"""The papers' pooling p -> cells a side of a window and side of the pooling in the release, whose
windows of 7 hold whole cells: 5 is 7 there, 4 is 3 and 2 is 2 on a resize to 6 (3 goes as 4)."""


def reference_sources(
    receptive: Sequence[int] = ModelConfig.receptive, pooling: Sequence[int] = ModelConfig.pooling
) -> tuple[PooledSource, ...]:
    """The references' rows of the context table from r and p (section 3.2; ablated: Tables 6, 7).

    A window reads r / p cells a side, rounded to the nearest odd number (up where two are as near),
    as the cells have a middle one. The papers' default comes out as the release's {7, 5, 3}.

    Args:
      receptive: r for each reference, oldest first; sound, as ``config.check_model`` has it.
      pooling: p for each reference, likewise.
    """
    return tuple(
        PooledSource(name, *WINDOW_CELLS[p], reach=2 * int(r / p / 2) + 1)
        for name, r, p in zip(reference_names(len(receptive)), receptive, pooling, strict=True)
    )


def reference_names(count: int) -> list[str]:
    """Names of so many references, oldest first."""
    names = ["far", "middle", "near"][-count:]
    return [f"far_{i}" for i in range(count - len(names), 0, -1)] + names


REFERENCES = reference_sources()
"""Far (t-9), middle (t-6) and near (t-3): r = {49, 20, 6}, p = {7, 4, 2}."""


def padded_size(size: int) -> int:
    """The least multiple of the window side that holds ``size``."""
    return -(-size // WINDOW) * WINDOW


def pad_to_windows(x: Float[Array, "N h w C"]) -> Float[Array, "N _ _ C"]:
    """Pads a map to whole windows, with zeros at the bottom and right."""
    _, h, w, _ = x.shape
    return jnp.pad(x, ((0, 0), (0, padded_size(h) - h), (0, padded_size(w) - w), (0, 0)))


def pooling_weights(
    weight: Float[Array, " {source.pool}**2"], source: PooledSource
) -> Float32[Array, "{source.cells} {source.cells} 7 7"]:
    """The resize to m * p and the pooling as one product: (cell row, cell column, row, column).
    With m * p <= 7 the resize stays inside a window: one small matrix serves all windows."""
    m, p = source.cells, source.pool
    if m * p > WINDOW:
        raise ValueError(f"{source}: cells * pool must not exceed the window side {WINDOW}")
    resize = jnp.asarray(interpolation_matrix(WINDOW, m * p).reshape(m, p, WINDOW))
    return jnp.einsum("ij,aiu,bjv->abuv", weight.reshape(p, p), resize, resize, precision="highest")


def pool(
    x: Float[Array, "N H W C"],
    weight: Float[Array, " {source.pool}**2"],
    bias: Float[Array, " 1"],
    source: PooledSource,
) -> Float[Array, "N H//7*{source.cells} W//7*{source.cells} C"]:
    """Pools each window into m * m tokens: a learned weighted sum and a bias."""
    n, height, width, c = x.shape
    nh, nw, m = height // WINDOW, width // WINDOW, source.cells
    kernel = pooling_weights(weight, source).reshape(m * m, WINDOW * WINDOW).astype(x.dtype)
    windows = x.reshape(n, nh, WINDOW, nw, WINDOW, c).transpose(0, 1, 3, 2, 4, 5)
    windows = windows.reshape(n, nh, nw, WINDOW * WINDOW, c)
    cells = jnp.einsum("sq,nabqc->nabsc", kernel, windows) + bias.astype(x.dtype)
    return cells.reshape(n, nh, nw, m, m, c).transpose(0, 1, 3, 2, 4, 5).reshape(n, nh * m, nw * m, c)


def split_windows(x: Float[Array, "*lead H W D"]) -> Float[Array, "*lead H//7 W//7 49 D"]:
    """Cuts a map of whole windows into its windows."""
    *lead, height, width, d = x.shape
    nh, nw = height // WINDOW, width // WINDOW
    x = x.reshape(*lead, nh, WINDOW, nw, WINDOW, d)
    return jnp.swapaxes(x, -3, -4).reshape(*lead, nh, nw, WINDOW**2, d)


def join_windows(x: Float[Array, "*lead nh nw 49 D"]) -> Float[Array, "*lead nh*7 nw*7 D"]:
    """The inverse of ``split_windows``."""
    *lead, nh, nw, _, d = x.shape
    x = jnp.swapaxes(x.reshape(*lead, nh, nw, WINDOW, WINDOW, d), -3, -4)
    return x.reshape(*lead, nh * WINDOW, nw * WINDOW, d)


# --- static tables -------------------------------------------------------------------------------------------------


def cell_index(
    nh: int, nw: int, source: PooledSource
) -> tuple[Int64[np.ndarray, "{nh} {nw} {source.reach}**2"], Bool[np.ndarray, "{nh} {nw} {source.reach}**2"]]:
    """Flat index into the source's grid, and whether the cell lies outside it (index 0 then)."""
    m, reach = source.cells, np.arange(source.reach) - source.reach // 2
    return flat_index(m * np.arange(nh)[:, None] + reach, m * np.arange(nw)[:, None] + reach, m)


def flat_index(rows: np.ndarray, columns: np.ndarray, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """``cell_index`` of the rows [nh, K] and columns [nw, K] of a grid of so many cells a window."""
    height, width = cells * len(rows), cells * len(columns)
    above, beside = (rows < 0) | (rows >= height), (columns < 0) | (columns >= width)
    outside = above[:, None, :, None] | beside[None, :, None, :]
    index = rows[:, None, :, None] * width + columns[None, :, None, :]
    index = np.where(outside, 0, index)
    return index.reshape(len(rows), len(columns), -1), outside.reshape(len(rows), len(columns), -1)


def fine_index(nh: int, nw: int) -> Int64[np.ndarray, "{nh} {nw} 169"]:
    """Flat index into the padded target map of each window's 13x13 region."""
    reach = np.arange(-HALO, WINDOW + HALO)
    rows = (WINDOW * np.arange(nh)[:, None] + reach) % (WINDOW * nh)
    columns = (WINDOW * np.arange(nw)[:, None] + reach) % (WINDOW * nw)
    index = rows[:, None, :, None] * (WINDOW * nw) + columns[None, :, None, :]
    return index.reshape(nh, nw, -1)


@functools.cache
def context_index(nh: int, nw: int, sources: tuple[PooledSource, ...]) -> Int32[np.ndarray, "{nh} {nw} _"]:
    """169 + sum K * K indices into the padded target, the grids and a zero token, end to end."""
    sizes = [nh * nw * WINDOW**2] + [nh * nw * source.cells**2 for source in sources]
    starts = np.cumsum([0, *sizes])
    index = [fine_index(nh, nw)]
    for source, start in zip(sources, starts[1:]):
        cells, outside = source.cell_index(nh, nw)
        index.append(np.where(outside, starts[-1], cells + start))
    return np.concatenate(index, -1).astype(np.int32)


@functools.cache
def context_mask(nh: int, nw: int, sources: tuple[PooledSource, ...]) -> Float32[np.ndarray, "{nh} {nw} _"]:
    """-100 where a pooled cell lies outside the map, else 0; axes as of ``context_index``."""
    fine = np.zeros((nh, nw, REGION**2), bool)
    outside = np.concatenate([fine] + [source.cell_index(nh, nw)[1] for source in sources], -1)
    return np.where(outside, MASKED, 0.0).astype(np.float32)


@functools.cache
def relative_index(reach: int) -> Int32[np.ndarray, "49 {reach}**2"]:
    """Index into a flat (6 + K) x (6 + K) table: row yq - yk + K - 1, column xq - xk + K - 1."""
    q, k = np.arange(WINDOW), np.arange(reach)
    difference = q[:, None] - k[None, :] + reach - 1  # [7, K]
    index = difference[:, None, :, None] * (WINDOW - 1 + reach) + difference[None, :, None, :]
    return index.reshape(WINDOW**2, reach**2).astype(np.int32)


@functools.cache
def ring_index() -> Int32[np.ndarray, "169 2"]:
    """For each token of the 13x13 region the ring entries (0..131) that read it, 132 for none.

    The ring is four copies of the map at offsets (+-3, +-3), each with 33 positions of a window: 12
    of the 120 positions outside the window are read twice (specification section 3, point 3).
    """
    i, j = np.mgrid[0:WINDOW, 0:WINDOW]
    low, high = HALO, WINDOW - HALO
    copies = [
        (HALO, HALO, (i >= high) | (j >= high)),
        (HALO, -HALO, (i >= high) | (j < low)),
        (-HALO, HALO, (i < low) | (j >= high)),
        (-HALO, -HALO, (i < low) | (j < low)),
    ]
    readers: list[list[int]] = [[] for _ in range(REGION**2)]
    entry = 0
    for down, right, kept in copies:
        for y, x in zip(i[kept] + down + HALO, j[kept] + right + HALO):
            readers[y * REGION + x].append(entry)
            entry += 1
    return np.array([(r + [RING_TOKENS, RING_TOKENS])[:2] for r in readers], np.int32)


def fine_bias(inside: Float32[Array, "A 13 13"], ring: Float32[Array, "A 49 132"]) -> Float32[Array, "A 49 169"]:
    """Position bias of the 13x13 region. A token that the ring reads twice gets logaddexp of its
    two biases: the softmax then gives it the weight of both."""
    heads = inside.shape[0]
    absent = jnp.full((heads, WINDOW**2, 1), -1e9, ring.dtype)
    ring = jnp.concatenate([ring, absent], -1)
    first, second = ring_index().T
    merged = jnp.logaddexp(ring[:, :, first], ring[:, :, second]).reshape(heads, WINDOW**2, REGION, REGION)
    inner = inside.reshape(heads, -1)[:, relative_index(WINDOW)].reshape(heads, WINDOW**2, WINDOW, WINDOW)
    low, high = HALO, HALO + WINDOW
    middle = jnp.concatenate([merged[:, :, low:high, :low], inner, merged[:, :, low:high, high:]], 3)
    whole = jnp.concatenate([merged[:, :, :low], middle, merged[:, :, high:]], 2)
    return whole.reshape(heads, WINDOW**2, REGION**2)


# --- the gather ------------------------------------------------------------------------------------------------------


def assemble(
    fine: Float[Array, "L H W D"],
    grids: Sequence[Float[Array, "L _ _ D"]],
    sources: tuple[PooledSource, ...],
    form: Literal["take", "slices"] = "take",
) -> Float[Array, "L H//7 W//7 _ D"]:
    """Gathers each window's context: the target's 13x13 region, then the sources' cells in order.

    Args:
      fine: keys or values of the target, padded; L counts clips and heads.
      grids: those of each source, pooled.
      sources: their rows of the table.
      form: "take" gathers by static indices; "slices" cuts and stacks, without gather and
        (backwards) scatter. Both give the same bits; ``benchmarks/context.py`` races them. On CPUs
        "take" is faster both ways.

    Returns:
      169 + sum K * K tokens a window; cells outside the map are zero.
    """
    if form == "slices":
        if any(type(source) is not PooledSource for source in sources):
            raise ValueError("only the release's contexts can be cut in slices")
        pooled = [_pooled_slices(grid, source) for grid, source in zip(grids, sources, strict=True)]
        return jnp.concatenate([_fine_slices(fine), *pooled], axis=3)
    lead, height, width, d = fine.shape
    index = context_index(height // WINDOW, width // WINDOW, sources)
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
