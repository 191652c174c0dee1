"""Coarse-to-fine feature assembling (CFFM section 3.2, Eq. 2): the tokens a target window reads.

Every context is a row of a table; the static indices, masks and bias shapes follow from it for any
feature size. A *pooled source* turns each window into cells x cells tokens, by learned weights of
its positions; window (a, b) reads the reach x reach cells centred on its first cell. Before them a
window reads its fine context (``windows``).

Dimension key: N clips, C channels, D channels of a head, h w sides of a map at stride 8, nh nw
windows a side, s window side, m cells a side of a window, p pooling side, K reach.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int32, Int64

from cffm_jax.config import POOLINGS, ModelConfig
from cffm_jax.models import layers
from cffm_jax.models.contexts.windows import HALO, WINDOW, fine_index
from cffm_jax.models.resize import interpolation_matrix

MASKED = -100.0
"""Added to the logits of cells outside the map."""


@dataclasses.dataclass(frozen=True)
class PooledSource:
    """One row of the context table.

    Attributes:
      name: role of the tokens, and the name of their parameters.
      cells: m, tokens a side that a window is pooled into.
      pool: p, side of the pooling; the window is first resized to m * p a side if that is not s.
      reach: K, side of the neighbourhood of cells that a window reads (odd).
      window: s.
      full: pool by a dense layer p * p * C -> C (Eq. 2), not by a weight a position that all
        channels share.
    """

    name: str
    cells: int
    pool: int
    reach: int
    window: int = WINDOW
    full: bool = False

    @property
    def tokens(self) -> int:
        return self.reach**2

    @property
    def bias_side(self) -> int:
        return self.window - 1 + self.reach

    @property
    def field(self) -> tuple[float, float]:
        """Where the region that a window reads begins and ends, from its own first position."""
        side, before = self.window / self.cells, self.reach // 2
        return -before * side, (self.reach - before) * side

    def pooling_products(self, channels: int, executed: bool) -> int:
        """Products of pooling a window. Released: p * p weights for each cell and channel; here the
        resize is part of the product, s * s for each, or with a dense layer goes before it."""
        positions, side = self.cells**2 * self.pool**2, self.cells * self.pool
        if self.full:
            resized = executed and side != self.window
            return channels * (positions * channels + (side * self.window * (self.window + side) if resized else 0))
        return channels * (self.cells**2 * self.window**2 if executed else positions)

    def pooled(
        self, x: Float[Array, "N H W C"], weight: Float[Array, ...], bias: Float[Array, " _"]
    ) -> Float[Array, "N _ _ C"]:
        """The grid of cells of a padded map. Weights are p * p, and one bias, or [p * p, C, C] and
        C biases where ``full``."""
        return (pool_full if self.full else pool)(x, weight, bias, self)

    def cell_index(
        self, nh: int, nw: int
    ) -> tuple[Int64[np.ndarray, "{nh} {nw} {self.tokens}"], Bool[np.ndarray, "{nh} {nw} {self.tokens}"]]:
        """Flat index into the grid, and whether the cell lies outside it (index 0 then)."""
        return cell_index(nh, nw, self)


def source(name: str, r: int, p: int, window: int = WINDOW, full: bool = False) -> PooledSource:
    """A row of the context table from r and p (section 3.2; ablated: Tables 6, 7), as released.

    A window reads r / p cells a side, rounded to the nearest odd number (up where two are as near),
    as the cells have a middle one. The papers' r and p, as ``config.checks.check_model`` lets them
    pass, come out as the release's; it has windows of 7 alone.
    """
    return PooledSource(name, *POOLINGS[p], reach=2 * int(r / p / 2) + 1, window=window, full=full)


def reference_sources(
    receptive: Sequence[int] = ModelConfig.receptive, pooling: Sequence[int] = ModelConfig.pooling
) -> tuple[PooledSource, ...]:
    """The references' rows, oldest first: ``source`` of each."""
    return tuple(map(source, reference_names(len(receptive)), receptive, pooling))


def reference_names(count: int) -> list[str]:
    """Names of so many references, oldest first."""
    names = ["far", "middle", "near"][-count:]
    return [f"far_{i}" for i in range(count - len(names), 0, -1)] + names


TARGET = source("target", ModelConfig.target_receptive, ModelConfig.target_pooling)
"""The target's own pooled tokens, (r', p')."""
REFERENCES = reference_sources()
"""Far (t-9), middle (t-6) and near (t-3): r = {49, 20, 6}, p = {7, 4, 2}."""


def pooling_weights(
    weight: Float[Array, " {source.pool}**2"], source: PooledSource
) -> Float32[Array, "{source.cells} {source.cells} {source.window} {source.window}"]:
    """The resize to m * p and the pooling as one product: (cell row, cell column, row, column).
    With m * p <= s the resize stays inside a window: one small matrix serves all windows."""
    m, p = source.cells, source.pool
    if m * p > source.window:
        raise ValueError(f"{source}: cells * pool must not exceed the window side {source.window}")
    resize = jnp.asarray(interpolation_matrix(source.window, m * p).reshape(m, p, source.window))
    return jnp.einsum("ij,aiu,bjv->abuv", weight.reshape(p, p), resize, resize, precision="highest")


def pool(
    x: Float[Array, "N H W C"],
    weight: Float[Array, " {source.pool}**2"],
    bias: Float[Array, " 1"],
    source: PooledSource,
) -> Float[Array, "N H//{source.window}*{source.cells} W//{source.window}*{source.cells} C"]:
    """Pools each window into m * m tokens: a learned weighted sum and a bias."""
    n, height, width, c = x.shape
    m, side = source.cells, source.window
    nh, nw = height // side, width // side
    kernel = pooling_weights(weight, source).reshape(m * m, side * side).astype(x.dtype)
    windows = x.reshape(n, nh, side, nw, side, c).transpose(0, 1, 3, 2, 4, 5).reshape(n, nh, nw, side * side, c)
    kernel = layers.align(kernel, 1, x.dtype)
    if m > 1:  # One cell is a sum, which XLA makes no product of.
        kernel = layers.align(kernel, 0, x.dtype)
    cells = jnp.einsum("sq,nabqc->nabsc", kernel, layers.align(windows, 3, x.dtype))[..., : m * m, :]
    cells += bias.astype(x.dtype)
    return cells.reshape(n, nh, nw, m, m, c).transpose(0, 1, 3, 2, 4, 5).reshape(n, nh * m, nw * m, c)


def pool_full(
    x: Float[Array, "N H W C"],
    weight: Float[Array, "{source.pool}**2 C C"],
    bias: Float[Array, " C"],
    source: PooledSource,
) -> Float[Array, "N H//{source.window}*{source.cells} W//{source.window}*{source.cells} C"]:
    """``pool`` by a dense layer of each token's p * p * C numbers (Eq. 2)."""
    n, height, width, c = x.shape
    m, p, side = source.cells, source.pool, source.window
    nh, nw = height // side, width // side
    windows = x.reshape(n, nh, side, nw, side, c)
    if m * p != side:
        resize = jnp.asarray(interpolation_matrix(side, m * p), x.dtype)
        windows = jnp.einsum("jv,naibvc->naibjc", resize, jnp.einsum("iu,naubvc->naibvc", resize, windows))
    patches = windows.reshape(n, nh, m, p, nw, m, p, c).transpose(0, 1, 2, 4, 5, 3, 6, 7)
    return layers.matmul(patches.reshape(n, nh * m, nw * m, -1), weight.reshape(-1, c), x.dtype) + bias.astype(x.dtype)


# --- static tables --------------------------------------------------------------------------------


def cell_index(
    nh: int, nw: int, source: PooledSource
) -> tuple[Int64[np.ndarray, "{nh} {nw} {source.reach}**2"], Bool[np.ndarray, "{nh} {nw} {source.reach}**2"]]:
    """Flat index into the source's grid, and whether the cell lies outside it (index 0 then)."""
    m, reach = source.cells, np.arange(source.reach) - source.reach // 2
    return flat_index(m * np.arange(nh)[:, None] + reach, m * np.arange(nw)[:, None] + reach, m)


def flat_index(rows: np.ndarray, columns: np.ndarray, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """``cell_index`` of the rows [nh, K] and columns [nw, K] of a grid of so many cells a
    window."""
    height, width = cells * len(rows), cells * len(columns)
    above, beside = (rows < 0) | (rows >= height), (columns < 0) | (columns >= width)
    outside = above[:, None, :, None] | beside[None, :, None, :]
    index = rows[:, None, :, None] * width + columns[None, :, None, :]
    index = np.where(outside, 0, index)
    return index.reshape(len(rows), len(columns), -1), outside.reshape(len(rows), len(columns), -1)


@functools.cache
def context_index(
    nh: int, nw: int, sources: tuple[PooledSource, ...], halo: int = HALO, multiple: int = 1
) -> Int32[np.ndarray, "{nh} {nw} _"]:
    """Indices of a window's context, 169 + sum K * K in the release, into the padded target, the
    grids and a zero token, end to end; of the zero token up to a multiple."""
    window = sources[0].window
    sizes = [nh * nw * window**2] + [nh * nw * source.cells**2 for source in sources]
    starts = np.cumsum([0, *sizes])
    index = [fine_index(nh, nw, window, halo)]
    for source, start in zip(sources, starts[1:]):
        cells, outside = source.cell_index(nh, nw)
        index.append(np.where(outside, starts[-1], cells + start))
    joined = np.concatenate(index, -1).astype(np.int32)
    return np.pad(joined, ((0, 0), (0, 0), (0, -joined.shape[-1] % multiple)), constant_values=starts[-1])


@functools.cache
def context_mask(
    nh: int, nw: int, sources: tuple[PooledSource, ...], halo: int = HALO, multiple: int = 1
) -> Float32[np.ndarray, "{nh} {nw} _"]:
    """-100 where a pooled cell lies outside the map, -inf of tokens up to a multiple, else 0; axes
    as of ``context_index``."""
    fine = np.zeros((nh, nw, (sources[0].window + 2 * halo) ** 2), bool)
    outside = np.concatenate([fine] + [source.cell_index(nh, nw)[1] for source in sources], -1)
    mask = np.where(outside, MASKED, 0.0).astype(np.float32)
    return np.pad(mask, ((0, 0), (0, 0), (0, -mask.shape[-1] % multiple)), constant_values=-np.inf)
