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
    """A row of the context table: ``reach`` = t, ``pool`` = p, ``cells`` the number of ``places``.

    Attributes:
      start: first position of the region, from the window's first.
    """

    start: int = 0

    @property
    def middles(self) -> np.ndarray:
        """Middle positions of the t tokens, from the window's first: where a token lies."""
        return self.start + self.pool // 2 + self.pool * np.arange(self.reach)

    @property
    def places(self) -> np.ndarray:
        """The different places of the middles in their windows, ascending."""
        return np.unique(self.middles % WINDOW)

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
        sums = sums[:, :, self.places][:, :, :, :, self.places]
        return sums.reshape(n, height // WINDOW * self.cells, width // WINDOW * self.cells, c)

    def cell_index(
        self, nh: int, nw: int
    ) -> tuple[Int64[np.ndarray, "{nh} {nw} {self.tokens}"], Bool[np.ndarray, "{nh} {nw} {self.tokens}"]]:
        return cffa.flat_index(self._along(nh), self._along(nw), self.cells)

    def _along(self, count: int) -> np.ndarray:
        """The tokens' places in the grid, [n, t], for the windows of an axis; outside of it where they
        lie outside the map."""
        middles = WINDOW * np.arange(count)[:, None] + self.middles
        return middles // WINDOW * self.cells + np.searchsorted(self.places, middles % WINDOW)


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
    source = CentredSource(name, cells=0, pool=pool, reach=tokens, start=(WINDOW - tokens * pool) // 2)
    return dataclasses.replace(source, cells=len(source.places))
