"""Large frames in tiles that overlap: each is segmented as a frame of its own, and their logits are
blended.

Logits and not probabilities are blended, so that one set of them gives mask, scores and
``--logits`` as of a whole frame: resizing is linear as the blend is, and a softmax before it would
need the probabilities of all classes at full size.

Dimension key: H W the frame or a map of it, h w a tile or a map of it, T tiles of a frame.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Shaped

from cffm_jax.config.checks import require_tiles
from cffm_jax.models.encoders.backbone import INPUT_MULTIPLE
from cffm_jax.models.methods.method import Method


@dataclasses.dataclass(frozen=True)
class Tiling:
    """How frames of any size are cut; as it can be hashed, it can be a static argument.

    Attributes:
      size: (h, w) of a tile, multiples of 32.
      overlap: pixels that neighbours share at least, a multiple of 32 below h and w.
    """

    size: tuple[int, int]
    overlap: int

    @classmethod
    def of(cls, tile_size: tuple[int, ...], overlap: int = -1, prefix: str = "") -> Tiling | None:
        """The tiling that two settings ask for: ``tile_size``, (h, w) (none: no tiling), and
        ``overlap``, pixels (-1: a quarter of the shorter side, up to a multiple of 32).

        Raises:
          InputError: they break their rules; ``prefix`` stands before their names.
        """
        require_tiles(tile_size, overlap, prefix)
        if not tile_size:
            return None
        h, w = tile_size
        quarter = -(-min(h, w) // (4 * INPUT_MULTIPLE)) * INPUT_MULTIPLE
        return cls((h, w), quarter if overlap < 0 else overlap)

    def over(self, size: tuple[int, int]) -> Tiles:
        """The tiles of frames of a size (H, W), multiples of 32; a shorter side makes a tile
        shorter."""
        h, w = map(min, size, self.size)
        return Tiles((h, w), (self._starts(size[0], h), self._starts(size[1], w)))

    def _starts(self, length: int, side: int) -> tuple[int, ...]:
        """As few as cover the length, spread evenly; the first is 0, the last ends where the frame
        does."""
        if length == side:
            return (0,)
        steps = -(-(length - side) // (side - self.overlap))
        return tuple((length - side) // INPUT_MULTIPLE * i // steps * INPUT_MULTIPLE for i in range(steps + 1))


@dataclasses.dataclass(frozen=True)
class Tiles:
    """The tiles of a frame, row by row.

    Attributes:
      size: (h, w).
      starts: their first rows, and their first columns.
    """

    size: tuple[int, int]
    starts: tuple[tuple[int, ...], tuple[int, ...]]

    @property
    def count(self) -> int:
        """T."""
        return len(self.starts[0]) * len(self.starts[1])

    def cut(self, frames: Shaped[Array, "*more H W C"], number: Int[Array, ""]) -> Shaped[Array, "*more h w C"]:
        """The tile of this number out of frames."""
        for axis, place, starts, side in zip((-3, -2), self._place(number), self.starts, self.size):
            frames = jax.lax.dynamic_slice_in_dim(frames, jnp.array(starts)[place], side, axis)
        return frames

    def add(
        self, whole: Float[Array, "*more H W K"], tile: Float[Array, "*more h w K"], number: Int[Array, ""]
    ) -> Float[Array, "*more H W K"]:
        """A map of the whole frame, at any stride up to 32, to which a tile's is added, times its
        weights. The weights of all tiles sum to 1 everywhere: added to zeros they are the blend."""
        stride = self.size[0] // tile.shape[-3]
        firsts, weights = [], []
        for place, starts, side in zip(self._place(number), self.starts, self.size):
            starts = tuple(start // stride for start in starts)
            firsts.append(jnp.array(starts)[place])
            weights.append(jnp.array(_weights(starts, side // stride))[place])
        first = (*(0,) * (whole.ndim - 3), *firsts, 0)
        rows, columns = weights
        so_far = jax.lax.dynamic_slice(whole, first, tile.shape)
        return jax.lax.dynamic_update_slice(whole, so_far + (rows[:, None] * columns)[..., None] * tile, first)

    def _place(self, number: jax.Array) -> tuple[jax.Array, jax.Array]:
        return number // len(self.starts[1]), number % len(self.starts[1])


def tiles_of(tiling: Tiling | None, size: tuple[int, int]) -> Tiles:
    """The tiles of frames of a size; without a tiling one, the whole frame."""
    return tiling.over(size) if tiling else Tiles(size, ((0,), (0,)))


def input_multiple(model: Method, tiling: Tiling | None) -> int:
    """Of which the sides of a model's frames are multiples: with tiles, of what these are cut
    by."""
    return INPUT_MULTIPLE if tiling else model.input_multiple


@functools.cache
def _weights(starts: tuple[int, ...], side: int) -> Float32[np.ndarray, "{len(starts)} {side}"]:
    """The tiles' weights along an axis: they fall and rise linearly where two overlap, and sum to 1
    at each place; exactly 1 where there is but one."""
    from_edge = np.arange(side) + 0.5
    weights = np.ones((len(starts), side))
    for i, (start, following) in enumerate(itertools.pairwise(starts)):
        if shared := start + side - following:
            weights[i + 1] = np.minimum(weights[i + 1], from_edge / shared)
            weights[i] = np.minimum(weights[i], from_edge[::-1] / shared)
    total = np.zeros(starts[-1] + side)
    for start, weight in zip(starts, weights):
        total[start : start + side] += weight
    return np.stack([weight / total[start : start + side] for start, weight in zip(starts, weights)]).astype(np.float32)
