"""The options with which a training fits GPUs of some sizes, with none at hand: predictions, not measurements.

    python benchmarks/training_memory.py                                              # B5 as the papers train it
    python benchmarks/training_memory.py --model cffm_b1 --dtypes bfloat16 --cards 16 24

The step is compiled for an H200 by XLA (``make install-cuda-compile`` installs JAX's compiler for CUDA alone). A step
takes what the compiler plans, and the batches that are sent ahead; ``train.py`` says the same before its first step.
Rows go from what changes a run least to what saves most, and end where the smallest card has room.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import os
import shlex
import sys
import time
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The compiler for CUDA lies in a folder of its own: where JAX always finds it, it asks for a GPU at every start.
sys.path.append(str(Path(sys.prefix) / "cuda-compile"))

import jax
from gpu.programs import lower_training
from gpu.targets import COMPILER_OPTIONS, TARGETS, topology
from model import fixed, header, line

from cffm_jax.config import Config, DataConfig, ModelConfig, TrainConfig
from cffm_jax.models.create import build_model
from cffm_jax.models.layers import Remat
from cffm_jax.rules import setting
from cffm_jax.runtime.command_line import parse_command, run_command
from cffm_jax.runtime.devices import GPU_SHARE, planned_bytes
from cffm_jax.training.ahead import AHEAD
from cffm_jax.training.footprint import MOST
from cffm_jax.training.sharding import mesh_of

GB = 1e9


@dataclasses.dataclass(frozen=True)
class Options:
    model: str = "cffm_b5"
    """Public name."""
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    """Compute types."""
    crop: tuple[int, int] = (480, 480)
    """Height and width of a clip, multiples of 32."""
    batch: int = setting(8, least=1)
    """Clips in a step."""
    classes: int = 124
    """Classes."""
    cards: tuple[float, ...] = (80, 48, 24)
    """Memory of the GPUs, GB."""


def rungs(options: Options) -> Iterator[tuple[str, int]]:
    """(What is kept for the pass back, parts of a batch): what changes no figure first."""
    kinds = typing.get_args(Remat)
    yield from ((remat, 1) for remat in kinds)
    yield from ((kinds[-1], parts) for parts in range(2, options.batch + 1) if options.batch % parts == 0)


def needed(options: Options, dtype: str, remat: str, accumulate: int) -> int:
    """Bytes of a step of such a run."""
    config = Config(
        model=ModelConfig(name=options.model, num_classes=options.classes, dtype=dtype),
        data=DataConfig(crop=options.crop),
        train=TrainConfig(batch_size=options.batch, remat=remat, accumulate=accumulate),
    )
    lowered = lower_training(config, mesh_of(topology(TARGETS["h200"]).devices[:1]))
    (_, batch, _), _ = lowered.args_info
    ahead = sum(math.prod(array.shape) * array.dtype.itemsize for array in jax.tree.leaves(batch))
    planned = planned_bytes(lowered.compile(COMPILER_OPTIONS))
    assert planned is not None  # This compiler tells.
    return planned + AHEAD * ahead


def room(size: float, card: float) -> str:
    """Whether a card of so many GB has so many bytes."""
    return "yes" if size <= GPU_SHARE * card * GB else f"at {MOST}" if size <= MOST * card * GB else "no"


def main(argv: Sequence[str]) -> None:
    options = parse_command(Options, argv, lambda _: Options(), __doc__)
    build_model(ModelConfig(name=options.model))
    jax.config.update("jax_enable_compilation_cache", False)
    print(f"- command: {shlex.join(['python', 'benchmarks/training_memory.py', *argv])}")
    print(f"- predictions of XLA's plan for an H200; jax {jax.__version__}, {datetime.date.today().isoformat()}")
    print(f"- {options.model}, {options.batch} clips of {options.crop[0]}x{options.crop[1]}, {options.classes} classes")
    print(f"- yes: JAX's usual {100 * GPU_SHARE:.0f} % of a card do; at {MOST}: with XLA_CLIENT_MEM_FRACTION={MOST}")
    header("options", "a step takes, GB", *(f"{card:g} GB" for card in options.cards), "compile, s")
    for dtype in options.dtypes:
        for remat, accumulate in rungs(options):
            began = time.perf_counter()
            size = needed(options, dtype, remat, accumulate)
            words = f"`--model.dtype {dtype} --train.remat {remat} --train.accumulate {accumulate}`"
            rooms = [room(size, card) for card in options.cards]
            line(words, fixed(size, 1, GB), *rooms, fixed(time.perf_counter() - began, 0))
            if room(size, min(options.cards)) == "yes":
                break


if __name__ == "__main__":
    sys.exit(run_command(main))
