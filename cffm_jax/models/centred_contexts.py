"""Contexts as the papers describe them (CFFM section 3.2): a window reads a region of r x r
positions around its own middle, pooled p x p, for any r and p.

The release computes another thing for all but p = 7: windows are resized before they are pooled,
and a window reads around the first of its own cells (``cffa``). With p = 7 and r an odd multiple of
it, as the papers' {49, 7} of t-9, both are the same, and the release's program is used.

Dimension key: as in ``cffa``; t = tokens a side, the nearest whole number to r / p.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int64

from cffm_jax.models import cffa
from cffm_jax.models.cffa import WINDOW, PooledSource


@dataclasses.dataclass(frozen=True)
class CentredSource(PooledSource):
    """A row of the context table: ``reach`` = t, ``pool`` = p, ``cells`` the tokens' different places
    in a window, a side.

    Attributes:
      start: first position of the region, from the window's first.
    """

    start: int = 0

    @property
    def middles(self) -> np.ndarray:
        """Middle positions of the t tokens, from the window's first: where a token lies."""
        return self.start + self.pool // 2 + self.pool * np.arange(self.reach)

    @property
    def field(self) -> tuple[float, float]:
        return self.start, self.start + self.pool * self.reach

    def pooling_products(self, executed: bool) -> int:
        """Executed at every position."""
        return (WINDOW**2 if executed else self.cells**2) * self.pool**2

    def pooled(
        self, x: Float[Array, "N H W C"], weight: Float[Array, " P"], bias: Float[Array, " 1"]
    ) -> Float[Array, "N _ _ C"]:
        """The p x p sums around each place that is read; beyond the map there are zeros."""
        n, height, width, c = x.shape
        p, before = self.pool, self.pool // 2
        kernel = weight.reshape(p, p).astype(x.dtype)
        x = jnp.pad(x, ((0, 0), (before, p - 1 - before), (before, p - 1 - before), (0, 0)))
        sums = sum(x[:, i : i + height, j : j + width] * kernel[i, j] for i in range(p) for j in range(p))
        sums = jnp.asarray(sums + bias.astype(x.dtype)).reshape(n, height // WINDOW, WINDOW, width // WINDOW, WINDOW, c)
        places = np.unique(self.middles % WINDOW)
        sums = sums[:, :, places][:, :, :, :, places]
        return sums.reshape(n, height // WINDOW * self.cells, width // WINDOW * self.cells, c)

    def cell_index(
        self, nh: int, nw: int
    ) -> tuple[Int64[np.ndarray, "{nh} {nw} {self.tokens}"], Bool[np.ndarray, "{nh} {nw} {self.tokens}"]]:
        (rows, above), (columns, beside) = self._along(nh), self._along(nw)
        outside = above[:, None, :, None] | beside[None, :, None, :]
        index = rows[:, None, :, None] * (self.cells * nw) + columns[None, :, None, :]
        return np.where(outside, 0, index).reshape(nh, nw, -1), outside.reshape(nh, nw, -1)

    def _along(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """For each of the windows of an axis the tokens' places in the grid [n, t], and whether they
        lie outside."""
        middles = WINDOW * np.arange(count)[:, None] + self.middles
        places = np.unique(self.middles % WINDOW)
        grid = middles // WINDOW * self.cells + np.searchsorted(places, middles % WINDOW)
        return grid, (middles < 0) | (middles >= WINDOW * count)


def reference_sources(receptive: Sequence[int], pooling: Sequence[int]) -> tuple[PooledSource, ...]:
    """The references' rows of the context table, oldest first.

    Where the region cannot lie in the middle of the window, its side being even, it lies half a
    position up and left of it.
    """
    return tuple(
        _source(name, max(1, round(r / p)), p)
        for name, r, p in zip(cffa.reference_names(len(receptive)), receptive, pooling, strict=True)
    )


def _source(name: str, tokens: int, pool: int) -> PooledSource:
    if pool == WINDOW and tokens % 2:
        return PooledSource(name, cells=1, pool=WINDOW, reach=tokens)
    start = (WINDOW - tokens * pool) // 2
    middles = start + pool // 2 + pool * np.arange(tokens)
    return CentredSource(name, cells=len(np.unique(middles % WINDOW)), pool=pool, reach=tokens, start=start)
