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
from collections.abc import Callable
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
    for form in ("take", "slices"):
        gather = functools.partial(assemble, sources=SOURCES, form=form)

        def loss(
            fine: jax.Array, grids: tuple[jax.Array, ...], weight: jax.Array, gather: Callable = gather
        ) -> jax.Array:
            return jnp.sum(gather(fine, grids) * weight)

        forward = median_ms(gather, (fine, grids), options.seconds)
        backward = median_ms(jax.grad(loss, argnums=(0, 1)), (fine, grids, weight), options.seconds)
        print(f"| {form} | {forward:.1f} | {backward:.1f} |")


if __name__ == "__main__":
    main()
