"""A stream's step in JAX and, exported, in the engines that run ONNX, in turns in one process. Prints a Markdown table.

    python benchmarks/onnx_engines.py                                   # segformer_b1, cffm_b0, cffm_b1, cffmpp_b1
    python benchmarks/onnx_engines.py --models cffm_b1 --int8 --video clip.mp4

Frames of their own size in the host's memory -> masks there, as ``predict.py`` has them: the resize is part of all.
With random weights, on drawn frames that move, or on those of a video. CFFM++ has the same prototypes all the time.
"differ": share of pixels of the last frame that have another class than in JAX. ``--int8``: OpenVINO with products in
8 bits, by NNCF (``pip install nncf``), with what it measures on the first frames.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np
from engines import drawn_variables
from model import environment, fixed, header, line

from cffm_jax.config import Config, DataConfig, ModelConfig
from cffm_jax.data import evaluation_frames
from cffm_jax.data.class_names import VSPW
from cffm_jax.drawing.palette import palette
from cffm_jax.errors import InputError
from cffm_jax.export.onnx import export_onnx
from cffm_jax.inference.load import Weights
from cffm_jax.inference.onnx_engines import ENGINES, OnnxEngine
from cffm_jax.inference.onnx_stream import FRAMES, PROTOTYPES, outputs_of, start
from cffm_jax.inference.streaming import StreamSegmenter
from cffm_jax.media.frame import Selection
from cffm_jax.media.source import open_source
from cffm_jax.models.create import build_model
from cffm_jax.rules import setting
from cffm_jax.runtime.command_line import parse_command, run_command

Step = Callable[[np.ndarray], np.ndarray]
"""The next frame u8[H0, W0, 3] -> its mask u8[H0, W0]."""
CALIBRATED = 10
"""Frames that NNCF measures."""


@dataclasses.dataclass(frozen=True)
class Options:
    models: tuple[str, ...] = ("segformer_b1", "cffm_b0", "cffm_b1", "cffmpp_b1")
    """Public names."""
    size: tuple[int, int] = (480, 853)
    """Height and width of the frames; networks see them at the next multiples of 32."""
    engines: tuple[str, ...] = ("onnxruntime", "openvino")
    """Beside JAX: onnxruntime, openvino, openvino-bf16."""
    int8: bool = False
    """OpenVINO in 8 bits, too."""
    frames: int = setting(24, least=1)
    """Of each engine, after one that is not counted."""
    video: str = setting("", path=True)
    """Frames are a video's, resized; default: drawn ones."""


def drawn_frames(options: Options) -> list[np.ndarray]:
    height, width = options.size
    if options.video:
        with open_source([options.video], Selection(), 25.0) as source:
            read = itertools.islice(source.frames, options.frames + 1)
            return [cv2.resize(each.pixels, (width, height), interpolation=cv2.INTER_AREA) for each in read]
    coarse = np.random.default_rng(0).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    picture = coarse.repeat(8, 0).repeat(8, 1)[:height, :width]
    return [np.roll(picture, 3 * n, 1) for n in range(options.frames + 1)]


def in_jax(weights: Weights, size: tuple[int, int], prototypes: np.ndarray | None) -> Step:
    """As streams run."""
    segmenter = StreamSegmenter(weights.model, weights.config, size, given=prototypes is not None)
    step = jax.jit(segmenter.function, donate_argnums=1)
    variables, state = jax.device_put(weights.variables), segmenter.start()

    def call(frame: np.ndarray) -> np.ndarray:
        nonlocal state
        frame = evaluation_frames.fit_frame(frame, size)
        state, masks = step(variables, state, frame[None], prototypes)
        return np.asarray(masks)[0]

    return call


def in_engine(engine: OnnxEngine, prototypes: np.ndarray | None) -> Step:
    """As ``inference.onnx_stream`` runs it."""
    run, given = engine.runner(), {} if prototypes is None else {PROTOTYPES: prototypes}
    state = start(engine)
    outputs = outputs_of(state)

    def call(frame: np.ndarray) -> np.ndarray:
        nonlocal state
        *after, masks = run({**state, **given, FRAMES: frame[None]}, outputs)
        state = dict(zip(state, after, strict=True))
        return masks[0]

    return call


def in_int8(path: Path, frames: Sequence[np.ndarray], prototypes: np.ndarray | None) -> Step:
    """A file of OpenVINO with products in 8 bits, beside ``path``."""
    nncf, openvino = map(importlib.import_module, ("nncf", "openvino"))
    plain, seen = ENGINES["openvino"](path), []
    honest = plain.runner

    class Watched:
        inputs, metadata = plain.inputs, plain.metadata

        def runner(self) -> Any:
            run = honest()
            return lambda inputs, wanted: (seen.append(dict(inputs)), run(inputs, wanted))[1]

    step = in_engine(Watched(), prototypes)
    for frame in frames[:CALIBRATED]:
        step(frame)
    model = openvino.Core().read_model(path)
    # NNCF 3.4 fails on CFFM's pooling.
    quantized = nncf.quantize(
        model, nncf.Dataset(seen), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(seen),
        ignored_scope=nncf.IgnoredScope(patterns=[".*pools_.*"], validate=False),
    )  # fmt: skip
    openvino.save_model(quantized, path.with_suffix(".xml"))
    return in_engine(ENGINES["openvino"](path.with_suffix(".xml")), prototypes)


def measure(name: str, options: Options, frames: list[np.ndarray], folder: Path) -> None:
    """Rows of a model."""
    height, width = options.size
    config = Config(model=ModelConfig(name, len(VSPW)), data=DataConfig(frame_size=options.size))
    model = build_model(config.model)
    names = tuple(VSPW)
    weights = Weights(model, drawn_variables(model), config, "drawn", "", names, palette(len(names)))
    path, prototypes = folder / f"{name}.onnx", None
    if model.reads_prototypes:
        shape = (1, config.prototypes.count, model.width)
        prototypes = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    export_onnx(weights, path, options.size)
    steps = {"JAX": in_jax(weights, options.size, prototypes)}
    for engine in options.engines:
        steps[engine] = in_engine(ENGINES[engine](path), prototypes)
    if options.int8:
        steps["openvino, int8"] = in_int8(path, frames, prototypes)
    times: dict[str, list[float]] = {engine: [] for engine in steps}
    masks = {}
    for i, frame in enumerate(frames):
        for engine, step in steps.items():
            began = time.perf_counter()
            masks[engine] = step(frame)
            if i:
                times[engine].append(1e3 * (time.perf_counter() - began))
    ours = statistics.median(times["JAX"])
    for engine, each in times.items():
        median, differ = statistics.median(each), float(np.mean(masks[engine] != masks["JAX"]))
        size = "-" if engine == "JAX" else f"{path.stat().st_size / 1e6:.0f}"
        line(name, engine, fixed(median, 0), fixed(min(each), 0), fixed(median / ours, 2), f"{differ:.6f}", size)


def main(argv: Sequence[str]) -> None:
    """Race JAX and the engines that run ONNX."""
    options = parse_command(Options, argv, lambda _: Options(), main.__doc__)
    unknown = set(options.engines) - set(ENGINES)
    if unknown:
        raise InputError("--engines", f"{', '.join(unknown)} is none", f"name some of {', '.join(ENGINES)}")
    frames = drawn_frames(options)
    print(
        f"{environment(argv)['device']}; {options.size[0]}x{options.size[1]}, {len(frames) - 1} frames each, in turns"
    )
    header("model", "engine", "ms (median)", "ms (least)", "of JAX", "differ", "file, MB")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            measure(name, options, frames, Path(folder))


if __name__ == "__main__":
    sys.exit(run_command(main))
