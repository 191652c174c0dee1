"""Contexts as the papers describe them (CFFM section 3.2): a window reads a region of r x r
positions around its own middle, pooled p x p, for any r and p.

The release computes another thing for all but p = 7: windows are resized before they are pooled,
and a window reads around the first of its own cells (``cffa``). With p = 7 and r an odd multiple of
it, as the papers' {49, 7} of t-9, both are the same, and the release's program is used.

Dimension key: as in ``cffa``; t = tokens a side, the nearest whole number to r / p.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int64

from cffm_jax.config import ModelConfig
from cffm_jax.models import layers
from cffm_jax.models.contexts import cffa
from cffm_jax.models.contexts.cffa import PooledSource
from cffm_jax.models.contexts.windows import WINDOW


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
        return np.unique(self.middles % self.window)

    @property
    def field(self) -> tuple[float, float]:
        return self.start, self.start + self.pool * self.reach

    def pooling_products(self, channels: int, executed: bool) -> int:
        """A weight a position is executed at every position, a dense layer where tokens lie."""
        if self.full:
            return (self.cells * self.pool * channels) ** 2
        return channels * (self.window**2 if executed else self.cells**2) * self.pool**2

    def pooled(
        self, x: Float[Array, "N H W C"], weight: Float[Array, ...], bias: Float[Array, " _"]
    ) -> Float[Array, "N _ _ C"]:
        """The p x p sums around each place that is read; beyond the map there are zeros."""
        _, height, width, _ = x.shape
        p, before = self.pool, self.pool // 2
        x = jnp.pad(x, ((0, 0), (before, p - 1 - before), (before, p - 1 - before), (0, 0)))
        parts = [x[:, i : i + height, j : j + width] for i in range(p) for j in range(p)]
        if self.full:
            patches = jnp.concatenate([self._at_places(part) for part in parts], -1)
            return layers.matmul(patches, weight.reshape(patches.shape[-1], -1), x.dtype) + bias.astype(x.dtype)
        sums = sum(part * each for part, each in zip(parts, weight.astype(x.dtype), strict=True))
        return self._at_places(jnp.asarray(sums + bias.astype(x.dtype)))

    def _at_places(self, x: Float[Array, "N H W C"]) -> Float[Array, "N _ _ C"]:
        """The positions of a map that tokens lie at, as the grid."""
        n, height, width, c = x.shape
        nh, nw, side = height // self.window, width // self.window, self.window
        x = x.reshape(n, nh, side, nw, side, c)[:, :, self.places][:, :, :, :, self.places]
        return x.reshape(n, nh * self.cells, nw * self.cells, c)

    def cell_index(
        self, nh: int, nw: int
    ) -> tuple[Int64[np.ndarray, "{nh} {nw} {self.tokens}"], Bool[np.ndarray, "{nh} {nw} {self.tokens}"]]:
        return cffa.flat_index(self._along(nh), self._along(nw), self.cells)

    def _along(self, count: int) -> np.ndarray:
        """The tokens' places in the grid, [n, t], for the windows of an axis; outside of it where
        they lie outside the map."""
        middles = self.window * np.arange(count)[:, None] + self.middles
        return middles // self.window * self.cells + np.searchsorted(self.places, middles % self.window)


def source(name: str, r: int, p: int, window: int = WINDOW, full: bool = False) -> PooledSource:
    """A row of the context table from r and p, as the papers describe it.

    Where the region cannot lie in the middle of the window, the one's side being even and the
    other's odd, it lies half a position up and left of it: the papers leave it open.
    """
    tokens = max(1, (2 * r + p) // (2 * p))  # Half a token counts as one.
    if p == window and tokens % 2:
        return PooledSource(name, 1, window, tokens, window, full)
    row = CentredSource(name, 0, p, tokens, window, full, start=(window - tokens * p) // 2)
    return dataclasses.replace(row, cells=len(row.places))


RULES = {"release": cffa.source, "paper": source}
"""Settings of ``model.pooling_rule`` -> a row of the context table from r and p."""


def context_table(settings: ModelConfig) -> tuple[PooledSource, ...]:
    """The pooled rows that a window reads: the target's own, then the references', oldest first.
    ``settings`` are sound."""
    row, full = RULES[settings.pooling_rule], settings.pooling_form == "full"
    names = ("target", *cffa.reference_names(len(settings.receptive)))
    receptive = (settings.target_receptive, *settings.receptive)
    pooling = (settings.target_pooling, *settings.pooling)
    return tuple(row(*each, settings.window, full) for each in zip(names, receptive, pooling, strict=True))
