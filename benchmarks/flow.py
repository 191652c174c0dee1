"""Time of RAFT for a pair of frames, beside torchvision's on the same cores.

    python benchmarks/flow.py                        # small and large, 480x856, 12 updates
    python benchmarks/flow.py --no-beside            # without torch

Both give the flow after the last update; weights are random. torchvision's gives that after every update, and cannot
be asked for less. A time is the median of the calls.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cffm_jax.errors import InputError
from cffm_jax.models.create import create_model
from cffm_jax.models.flow.raft import UPDATES
from cffm_jax.models.flow.raft_layers import SIZES
from cffm_jax.runtime.command_line import parse_command, run_command


@dataclasses.dataclass(frozen=True)
class Options:
    models: tuple[str, ...] = tuple(SIZES)
    """Names of them."""
    height: int = 480
    """Height of the frames, a multiple of 8."""
    width: int = 856
    """Width of the frames, a multiple of 8."""
    updates: int = UPDATES
    """Updates of the flow."""
    calls: int = 3
    """Calls that are timed, after one that is not."""
    beside: bool = True
    """Time torchvision's as well."""


def seconds(call: Callable[[], object], calls: int) -> float:
    """The median time of a call."""
    call()
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def ours(name: str, pair: list[np.ndarray], options: Options) -> float:
    model = create_model(name)
    images = [jnp.asarray(each) for each in pair]
    variables = jax.jit(model.init, static_argnums=3)(jax.random.key(0), *images, 1)

    @jax.jit
    def flow(variables, image1, image2):
        first, second = jnp.split(model.apply(variables, jnp.concatenate([image1, image2]), method="features"), 2)
        context = model.apply(variables, image1, method="context")
        return model.apply(variables, first, context, second, options.updates, method="flow")

    return seconds(lambda: flow(variables, *images).block_until_ready(), options.calls)


def theirs(name: str, pair: list[np.ndarray], options: Options) -> float:
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    import torch

    from helpers.torchvision_networks import network

    made = network("models.optical_flow", name)
    images = [torch.from_numpy(each.transpose(0, 3, 1, 2).copy()) for each in pair]
    with torch.inference_mode():
        return seconds(lambda: made(*images, options.updates), options.calls)


def benchmark(argv: list[str]) -> None:
    options = parse_command(Options, argv, lambda _: Options(), "Time RAFT.")
    if unknown := set(options.models) - set(SIZES):
        raise InputError("--models", f"{min(unknown)} is none", f"name some of {', '.join(SIZES)}")
    if options.height % 8 or options.width % 8 or min(options.height, options.width) < 128:
        size = f"{options.height}x{options.width}"
        raise InputError("--height, --width", f"are {size}", "give multiples of 8, and 128 or more")
    rng = np.random.default_rng(0)
    shape = (1, options.height, options.width, 3)
    pair = [np.tanh(rng.standard_normal(shape)).astype(np.float32) for _ in range(2)]
    for name in options.models:
        row = [f"{name}: {ours(name, pair, options):.2f} s"]
        row += [f"torchvision {theirs(name, pair, options):.2f} s"] if options.beside else []
        print(", ".join(row), flush=True)


if __name__ == "__main__":
    sys.exit(run_command(benchmark))
