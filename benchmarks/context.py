"""Races the forms of the context gather (CFFA): slices of a halo, and ``take`` with static indices.

    python benchmarks/context.py [--height 480 --width 864 --clips 1 --dtype float32 --seconds 2]

Each form turns the grids of keys and values into the 277 tokens of every window; timed forwards and backwards (the
map is linear: its gradient needs no forward pass).
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import tyro

from cffm_jax.models import cfm
from cffm_jax.models.contexts import cffa, windows
from cffm_jax.models.contexts.assemble import assemble

SOURCES = (cffa.TARGET, *cffa.REFERENCES)


@dataclasses.dataclass(frozen=True)
class Options:
    height: int = 480
    """Height of the frames."""
    width: int = 864
    """Width of the frames."""
    clips: int = 1
    """Clips in a batch."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the tokens."""
    seconds: float = 2.0
    """Time for each measurement."""


def median_ms(function: Callable, arguments: tuple, seconds: float) -> float:
    """Median time of a compiled call in milliseconds."""
    compiled = jax.jit(function).lower(*arguments).compile()
    jax.block_until_ready(compiled(*arguments))
    times: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        began = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times)


def in_slices(fine: jax.Array, grids: Sequence[jax.Array]) -> jax.Array:
    """``assemble`` of the release's contexts, cut and stacked: without gather and (backwards) scatter."""
    pooled = [_pooled_slices(grid, source) for grid, source in zip(grids, SOURCES, strict=True)]
    return jnp.concatenate([_fine_slices(fine), *pooled], axis=3)


def _halo_axis(x: jax.Array, axis: int) -> jax.Array:
    """Splits an axis of n * 7 into [n, 13]: each window and 3 neighbours a side, wrapped around."""
    size = x.shape[axis]
    cut = functools.partial(jax.lax.slice_in_dim, axis=axis)
    x = jnp.concatenate([cut(x, size - windows.HALO, size), x, cut(x, 0, windows.WINDOW - windows.HALO)], axis)
    blocks = x.reshape(x.shape[:axis] + (size // windows.WINDOW + 1, windows.WINDOW) + x.shape[axis + 1 :])
    first = jax.lax.slice_in_dim(blocks, 0, size // windows.WINDOW, axis=axis)
    second = jax.lax.slice_in_dim(blocks, 1, size // windows.WINDOW + 1, axis=axis)
    return jnp.concatenate([first, jax.lax.slice_in_dim(second, 0, 2 * windows.HALO, axis=axis + 1)], axis + 1)


def _fine_slices(x: jax.Array) -> jax.Array:
    """Each window's 13x13 region: [L, nh * 7, nw * 7, D] -> [L, nh, nw, 169, D]."""
    lead, height, width, d = x.shape
    x = _halo_axis(_halo_axis(x, 2), 1)  # [L, nh, 13, nw, 13, D]
    return jnp.swapaxes(x, 2, 3).reshape(
        lead, height // windows.WINDOW, width // windows.WINDOW, (windows.WINDOW + 2 * windows.HALO) ** 2, d
    )


def _reach_axis(x: jax.Array, axis: int, source: cffa.PooledSource) -> jax.Array:
    """Splits an axis of n * m cells into [n, K]: around each window's first one, zeros outside."""
    m, k = source.cells, source.reach
    count = x.shape[axis] // m
    padding = [(0, 0)] * x.ndim
    padding[axis] = (k // 2, k // 2)
    x = jnp.pad(x, padding)
    slices = [jax.lax.slice_in_dim(x, u, u + (count - 1) * m + 1, m, axis) for u in range(k)]
    return jnp.stack(slices, axis + 1)


def _pooled_slices(x: jax.Array, source: cffa.PooledSource) -> jax.Array:
    """The cells that windows read, or zeros: [L, nh * m, nw * m, D] -> [L, nh, nw, K * K, D]."""
    lead, height, width, d = x.shape
    x = _reach_axis(_reach_axis(x, 2, source), 1, source)  # [L, nh, K, nw, K, D]
    return jnp.swapaxes(x, 2, 3).reshape(lead, height // source.cells, width // source.cells, source.tokens, d)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    side = [windows.padded_size(length // 8) for length in (options.height, options.width)]
    lead, d = options.clips * cfm.HEADS, 32
    key = jax.random.key(0)
    fine = jax.random.normal(key, (lead, *side, d), options.dtype)
    shapes = [(lead, *(n // windows.WINDOW * source.cells for n in side), d) for source in SOURCES]
    grids = tuple(jax.random.normal(jax.random.fold_in(key, i), shape, options.dtype) for i, shape in enumerate(shapes))
    weight = jax.random.normal(key, jax.eval_shape(lambda *x: assemble(*x, SOURCES), fine, grids).shape, options.dtype)
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {datetime.date.today()}, {options}\n")
    print("| form | forward, ms | backward, ms |\n|---|---|---|")
    take = functools.partial(assemble, sources=SOURCES)
    assert jnp.array_equal(take(fine, grids), in_slices(fine, grids)), "the forms differ"
    for form, gather in {"take": take, "slices": in_slices}.items():

        def loss(
            fine: jax.Array, grids: tuple[jax.Array, ...], weight: jax.Array, gather: Callable = gather
        ) -> jax.Array:
            return jnp.sum(gather(fine, grids) * weight)

        forward = median_ms(gather, (fine, grids), options.seconds)
        backward = median_ms(jax.grad(loss, argnums=(0, 1)), (fine, grids, weight), options.seconds)
        print(f"| {form} | {forward:.1f} | {backward:.1f} |")


if __name__ == "__main__":
    main()
