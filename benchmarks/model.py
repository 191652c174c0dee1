"""Speed, memory, multiply-accumulates and compile time of the models, beside the figures of the papers.

    python benchmarks/model.py --json model.json                                # B0, B1, B2, B5; both types
    python benchmarks/model.py --models cffm_b0 --height 96 --width 160 --output 96 160 --seconds 0.5
    python benchmarks/model.py --train --train-model cffm_b1 --dtypes bfloat16  # the training step

Programs: ``encode`` (normalised frames -> features), ``mine`` (mining blocks and clip classifier, reference features
given), ``mine_global`` (CFFM++: global blocks and their classifier, prototypes given), ``frame_logits`` (SegFormer's
logits), ``whole`` (u8 frames -> u8 masks of the original size, reference features and prototypes given: the papers'
FPS), ``evaluation`` (a chunk of ``inference.offline``: all masks of every frame and the cache of features). Inputs are
on the device beforehand; a time is the median over calls that each wait for the result.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import os
import platform
import shlex
import statistics
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp

from cffm_jax.config import Config, DataConfig, EvalConfig, ModelConfig
from cffm_jax.data.evaluation_frames import evaluation_size
from cffm_jax.errors import InputError
from cffm_jax.inference.argmax import segmentation_masks
from cffm_jax.inference.whole_videos import VideoSegmenter
from cffm_jax.models.create import build_model
from cffm_jax.models.encoders.backbone import INPUT_MULTIPLE
from cffm_jax.models.macs import macs
from cffm_jax.models.methods.cffm import CFFM
from cffm_jax.models.methods.method import Method
from cffm_jax.models.normalise import normalise
from cffm_jax.models.variables import count_parameters, init_variables
from cffm_jax.rules import setting
from cffm_jax.runtime.command_line import parse_command, run_command
from cffm_jax.runtime.devices import planned_bytes
from cffm_jax.runtime.memory import use_huge_pages
from cffm_jax.tables.rows import TABLE1
from cffm_jax.training.optim import make_optimizer
from cffm_jax.training.sharding import batch_sharded, init_state, make_mesh, replicated
from cffm_jax.training.speed import device_peak
from cffm_jax.training.step import make_train_step

# Of 480x864: the papers say 480x853, but count so.
PUBLISHED_SIZE = (480, 864)
PUBLISHED = {row.network.model: row.costs[1:] for row in TABLE1.rows if row.network and row.costs}
"""CFFM++ paper, Table 1: GMAC, and frames/s on one RTX 6000, batch 2."""
MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Options:
    models: tuple[str, ...] = ("cffm_b0", "cffm_b1", "cffm_b2", "cffm_b5")
    """Public names; segformer_b0 .. b5 and cffmpp_b0 .. b5 as well."""
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    """Compute types."""
    height: int = 480
    """Height of the model's input, a multiple of 32."""
    width: int = 864
    """Width of the model's input, a multiple of 32."""
    batch: int = 2
    """Frames in one call."""
    classes: int = 124
    """Classes; 19 with --height 512 --width 1024 are Cityscapes' in the papers."""
    output: tuple[int, int] = (480, 853)
    """Height and width of the masks."""
    seconds: float = 5.0
    """Time for each measurement."""
    train: bool = False
    """Measure the training step instead."""
    train_model: str = "cffm_b1"
    """Model of the training step."""
    crop: tuple[int, int] = (480, 480)
    """Height and width of a training clip, multiples of 32."""
    train_batch: int = 2
    """Clips in a training step (4 frames each; for CFFM++ target frames alone)."""
    json: str = setting("", path=True)
    """Write everything to this file too."""


@dataclasses.dataclass(frozen=True)
class Program:
    """Something to compile and time.

    Attributes:
      name: of its row.
      frames: frames (or clips) of one call.
      lower: traces it.
      arguments: of one call, on the device.
      carry: (arguments, result) -> arguments of the next call, where a call uses up some of its arguments.
    """

    name: str
    frames: int
    lower: Callable[[], jax.stages.Lowered]
    arguments: tuple[Any, ...]
    carry: Callable[[tuple[Any, ...], Any], tuple[Any, ...]] = lambda arguments, _: arguments


@dataclasses.dataclass(frozen=True)
class Row:
    """One measurement. Sizes in bytes, None where the backend does not tell.

    ``peak_bytes`` is argument + output + temporary - aliased memory of the compiled program; ``device_peak_bytes`` the
    device's own figure since the process began; ``xla_gmac`` half of XLA's operations for a frame: elementwise work is
    included, the body of a loop (the masks' classes, the loss's frames) counts once.
    """

    model: str
    dtype: str
    program: str
    ms: float
    call_ms: float
    calls: int
    per_second: float
    xla_gmac: float | None
    lower_seconds: float
    compile_seconds: float
    temp_bytes: int | None
    peak_bytes: int | None
    device_peak_bytes: int | None


def measure(model: str, dtype: str, program: Program, seconds: float) -> Row:
    """Compiles, warms up with two calls, then calls until the time is up (three times at least)."""
    began = time.perf_counter()
    lowered = program.lower()
    traced = time.perf_counter()
    compiled = lowered.compile()
    finished = time.perf_counter()
    arguments, times = program.arguments, []
    while len(times) < 5 or sum(times[2:]) < seconds:
        start = time.perf_counter()
        result = jax.block_until_ready(compiled(*arguments))
        times.append(time.perf_counter() - start)
        arguments = program.carry(arguments, result)
        del result
    call_ms = 1e3 * statistics.median(times[2:])
    ms = call_ms / program.frames
    memory = compiled.memory_analysis()
    temp = None if memory is None else memory.temp_size_in_bytes
    flops = (compiled.cost_analysis() or {}).get("flops")
    return Row(
        model, dtype, program.name, ms, call_ms, len(times) - 2, 1e3 / ms, flops and flops / 2e9 / program.frames,
        traced - began, finished - traced, temp, planned_bytes(compiled), device_peak(),
    )  # fmt: skip


def jitted(name: str, function: Callable, frames: int, *arguments: Any) -> Program:
    return Program(name, frames, functools.partial(jax.jit(function).lower, *arguments), arguments)


def of_stream(model: Method) -> bool:
    """Whether its masks are made with what it keeps of all frames so far, which a clip alone has not got."""
    return model.contexts("video") == ("causal",)


def random_references(model: Method, config: Config, frames: tuple[int, ...]) -> Any:
    """What targets u8[n, H, W, 3] are given of their references: of CFFM's the features [n, R, h, w, C], of others'
    what they remember; None without any."""
    n, h, w, channels = frames
    key, count = jax.random.key(1), len(model.reference_names)
    if isinstance(model, CFFM):
        shape = (n, len(config.data.offsets), h // 8, w // 8, model.width)
        return jax.random.normal(key, shape, model.dtype) if model.local_blocks else None
    if not count:
        return None
    frame = jax.ShapeDtypeStruct((n, h, w, channels), jnp.float32)
    kept = jax.eval_shape(
        lambda x: model.templated.init_with_output(key, x, method=lambda model, x: model.remember(model.encode(x)))[0],
        frame,
    )
    drawn = jax.tree.map(lambda x: jax.random.normal(key, x.shape, x.dtype), kept)
    return drawn * count if len(drawn) == 1 else drawn


def whole(
    model: Method,
    output: tuple[int, int],
    variables: dict[str, Any],
    pixels: jax.Array,
    references: Any,
    prototypes: jax.Array | None,
) -> jax.Array:
    """Masks u8[n, *output] of frames u8[n, H, W, 3], what they read of references given: the papers' FPS."""
    bound = model.bind(variables)
    encoded = bound.encode(normalise(pixels))
    if not isinstance(bound, CFFM):
        logits = bound.segment(encoded, references or (), jnp.ones(len(pixels), bool), {})[model.rows()[0]]
    elif references is None:
        logits = bound.classify_frames(encoded.fine)
    else:
        logits = bound.classify_clip(encoded.coarse, bound.mine_local(encoded.coarse, references))
    if prototypes is not None:
        logits += model.global_weight * bound.classify_global(bound.mine_global(encoded.coarse, prototypes))
    return segmentation_masks(logits, pixels.shape[1:3], output)


def inference_programs(model: Method, variables: dict[str, Any], config: Config, options: Options) -> Iterator[Program]:
    n, size = options.batch, (options.height, options.width)
    key = jax.random.key(0)
    pixels = jax.random.randint(key, (n, *size, 3), 0, 256, jnp.uint8)
    frames = normalise(pixels)
    references, prototypes = random_references(model, config, frames.shape), None

    def mine_global(variables: dict[str, Any], target: jax.Array, prototypes: jax.Array) -> jax.Array:
        bound = model.bind(variables)
        return bound.classify_global(bound.mine_global(target, prototypes))

    def mine(variables: dict[str, Any], target: jax.Array, references: jax.Array) -> jax.Array:
        bound = model.bind(variables)
        return bound.classify_clip(target, bound.mine_local(target, references))

    yield jitted("encode", functools.partial(model.apply, method="encode"), n, variables, frames)
    if isinstance(model, CFFM):
        target = jax.random.normal(key, (n, options.height // 8, options.width // 8, model.width), model.dtype)
        if model.local_blocks:
            yield jitted("mine", mine, n, variables, target, references)
        if model.global_blocks:
            prototypes = jax.random.normal(key, (n, config.prototypes.count, model.width))
            yield jitted("mine_global", mine_global, n, variables, target, prototypes)
    yield jitted("frame_logits", functools.partial(model.apply, method="frame_logits"), n, variables, frames)
    masked = functools.partial(whole, model, options.output)
    if not of_stream(model):
        yield jitted("whole", masked, n, variables, pixels, references, prototypes)
    if evaluation_size(*options.output, config.data.frame_size) == size:
        given = prototypes if prototypes is None else prototypes[:1]
        segmenter = VideoSegmenter(model, config, types.SimpleNamespace(of=lambda video: given))
        arguments = (variables, segmenter.engine.start(size), pixels[None], given)
        lower = functools.partial(segmenter.lower, variables, options.output)
        # The chunk before gives the state of the next one; the old state is donated.
        yield Program("evaluation", n, lower, arguments, lambda old, result: (old[0], result[0], *old[2:]))


def training_program(
    model: Method, config: Config, options: Options, variables: dict[str, Any] | None = None
) -> Program:
    """A step from weights as training starts, unless there are others."""
    mesh = make_mesh(1)
    optimizer = make_optimizer(config.optim, config.train.steps, model)
    step = make_train_step(model, optimizer, mesh, frame_loss_weight=config.train.frame_loss_weight)
    state = init_state(model, variables or init_variables(model, jax.random.key(0)), optimizer, mesh)
    frames = len(model.training_offsets(config.data.offsets)) + 1
    shape = (options.train_batch, frames, *options.crop)
    key = jax.random.key(1)
    batch = {
        "frames": jax.random.randint(key, (*shape, 3), 0, 256, jnp.uint8),
        "labels": jax.random.randint(key, shape, 0, config.model.num_classes, jnp.uint8),
        "size": jnp.tile(jnp.array(options.crop, jnp.int32), (options.train_batch, 1)),
    }
    if model.reads_prototypes:
        count = config.prototypes.count
        batch["prototypes"] = jax.random.normal(key, (options.train_batch, count, model.width))
    arguments = (state, jax.device_put(batch, batch_sharded(mesh)), jax.device_put(key, replicated(mesh)))
    lower = functools.partial(step.lower, *arguments)
    return Program("training step", options.train_batch, lower, arguments, lambda old, result: (result[0], *old[1:]))


def config_for(name: str, dtype: str, options: Options) -> Config:
    return Config(
        model=ModelConfig(name=name, num_classes=options.classes, dtype=dtype),
        data=DataConfig(frame_size=options.output, crop=options.crop),
        eval=EvalConfig(chunk=options.batch),
    )


def published_figures(name: str, options: Options) -> tuple[float | None, float | None]:
    """GMAC and frames/s of the papers, at their size only."""
    at_size = (options.height, options.width) == PUBLISHED_SIZE
    return PUBLISHED.get(name, (None, None)) if at_size else (None, None)


def model_figures(name: str, options: Options) -> dict[str, Any]:
    """What needs no measurement."""
    counts = {
        f"gmac_{convention}": macs(
            name, options.height, options.width, num_classes=options.classes, convention=convention
        ).total
        / 1e9
        for convention in ("true", "executed", "paper")
    }
    published = published_figures(name, options)
    parameters = count_parameters(build_model(config_for(name, "float32", options).model))
    return {
        "model": name,
        "parameters": parameters,
        **counts,
        "published_gmac": published[0],
        "published_fps": published[1],
    }


def environment(argv: Sequence[str]) -> dict[str, Any]:
    device = jax.devices()[0]
    name = device.device_kind
    if device.platform == "cpu":
        try:
            lines = Path("/proc/cpuinfo").read_text().splitlines()
            name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
        except (OSError, StopIteration):
            name = platform.processor() or platform.machine()
        name += f" ({len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores)"
    return {
        "device": f"{device.platform}: {name}",
        "devices": jax.device_count(),
        "jax": jax.__version__,
        "matmul_precision": jax.config.jax_default_matmul_precision or "default of the backend",
        "date": datetime.date.today().isoformat(),
        "command": shlex.join(["python", "benchmarks/model.py", *argv]),
    }


def line(*cells: Any) -> None:
    print("| " + " | ".join("-" if cell is None else str(cell) for cell in cells) + " |", flush=True)


def header(*cells: str) -> None:
    print()
    line(*cells)
    line(*("---" for _ in cells))


def fixed(value: float | None, digits: int, unit: float = 1.0) -> str | None:
    return None if value is None else f"{value / unit:.{digits}f}"


def print_row(row: Row, fps: float | None) -> None:
    line(
        row.model, row.dtype, row.program, fixed(row.ms, 2), fixed(row.call_ms, 2), fixed(row.per_second, 1), fps,
        fixed(row.xla_gmac, 2), fixed(row.lower_seconds + row.compile_seconds, 1), fixed(row.temp_bytes, 0, MIB),
        fixed(row.peak_bytes, 0, MIB), fixed(row.device_peak_bytes, 0, MIB),
    )  # fmt: skip


def check(options: Options) -> None:
    for option, sides in (("--height, --width", (options.height, options.width)), ("--crop", options.crop)):
        if any(side < INPUT_MULTIPLE or side % INPUT_MULTIPLE for side in sides):
            raise InputError(
                option, f"{sides[0]}x{sides[1]} is no size of inputs", f"give multiples of {INPUT_MULTIPLE}"
            )
    for name in (options.train_model, *options.models):
        build_model(config_for(name, "float32", options).model)
    if options.json and not Path(options.json).absolute().parent.is_dir():
        raise InputError(options.json, "its folder does not exist", "make it first")


def main(argv: Sequence[str]) -> None:
    options = parse_command(Options, argv, lambda _: Options(), __doc__)
    check(options)
    # A compile time out of the cache would be none.
    jax.config.update("jax_enable_compilation_cache", False)
    about = environment(argv)
    print("\n".join(f"- {key}: {value}" for key, value in about.items()))
    rows: list[Row] = []
    each, size = ("clip", options.crop) if options.train else ("frame", (options.height, options.width))
    batch = options.train_batch if options.train else options.batch
    print(f"- input: {size[0]}x{size[1]}, batch {batch}, {options.classes} classes; {options.seconds} s a row, median")
    print("- memory: MiB; XLA's GMAC: half its operations, elementwise work included, bodies of loops once")
    figures = [] if options.train else [model_figures(name, options) for name in options.models]
    if figures:
        header(
            "model",
            "parameters, M",
            "GMAC",
            "GMAC executed here",
            "GMAC, papers' convention",
            "papers, Table 1 (480x853)",
        )
        for f in figures:
            counts = (fixed(f[f"gmac_{convention}"], 2) for convention in ("true", "executed", "paper"))
            line(f["model"], fixed(f["parameters"], 2, 1e6), *counts, f["published_gmac"])
    header(
        "model", "dtype", "program", f"ms/{each}", "ms/call", f"{each}s/s", "papers' FPS (RTX 6000)",
        f"XLA's GMAC/{each}", "compile, s", "temporary", "peak of the program", "peak of the device so far",
    )  # fmt: skip
    for name in (options.train_model,) if options.train else options.models:
        for dtype in options.dtypes:
            config = config_for(name, dtype, options)
            model = build_model(config.model)
            if options.train:
                programs = iter([training_program(model, config, options)])
            else:
                programs = inference_programs(model, init_variables(model, jax.random.key(0)), config, options)
            for program in programs:
                rows.append(measure(name, dtype, program, options.seconds))
                print_row(rows[-1], published_figures(name, options)[1] if program.name == "whole" else None)
                if options.json:  # after every row: a long run may not reach its end
                    result = {"environment": about, "options": dataclasses.asdict(options), "models": figures}
                    result["programs"] = [dataclasses.asdict(row) for row in rows]
                    Path(options.json).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    use_huge_pages()
    sys.exit(run_command(main))
