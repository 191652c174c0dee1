"""Memory and time of large frames, whole and in tiles: python benchmarks/tiles.py

Each row is a process of its own, with random weights. What the compiled step takes is what ``predict.py`` says; the
largest resident size has Python, JAX and compiling as well. A row that would not fit into the memory that is free is
not run.
"""

from __future__ import annotations

import argparse
import datetime
import os
import resource
import subprocess
import sys
import time

import jax
import numpy as np

from cffm_jax.config import Config, DataConfig, ModelConfig
from cffm_jax.inference.streaming import StreamSegmenter
from cffm_jax.inference.tiles import Tiling
from cffm_jax.models.create import create_model
from cffm_jax.models.variables import variable_shapes
from cffm_jax.runtime.xla import cache_compilations

CLASSES = 124


def row(model_name: str, size: tuple[int, int], tile_size: tuple[int, ...], overlap: int, frames: int) -> str:
    """A row of the table, of so many frames after the first."""
    model = create_model(model_name, CLASSES)
    config = Config(model=ModelConfig(model_name, CLASSES), data=DataConfig(frame_size=(0, 0)))
    segmenter = StreamSegmenter(model, config, size, tiles=Tiling.of(tile_size, overlap))
    footprint = segmenter.footprint(variable_shapes(model))
    took = peak = "not run"
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if frames and (footprint.memory or 0) < free:
        rng = np.random.default_rng(0)

        def draw(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
            return (rng.standard_normal(leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))).astype(np.float32)

        variables, state = jax.device_put(jax.tree.map(draw, variable_shapes(model))), segmenter.start()
        pictures = rng.integers(0, 256, (1, *segmenter.input_size, 3), np.uint8)
        times = []
        for _ in range(1 + frames):
            began = time.perf_counter()
            state, segmented = segmenter.segment(variables, state, pictures)
            jax.block_until_ready(segmented)
            times.append(time.perf_counter() - began)
        took = f"{np.median(times[1:]):.1f}"
        peak = f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f}"
    (height, width), count = footprint.tile_size, footprint.tiles
    cut = f"{count} of {height}x{width}, {footprint.overlap}" if count > 1 else "whole"
    memory = "not known" if footprint.memory is None else f"{footprint.memory / 1e9:.2f}"
    return f"| {model_name} | {size[0]}x{size[1]} | {cut} | {memory} | {peak} | {took} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["cffm_b0", "cffm_b1"])
    parser.add_argument("--size", type=int, nargs=2, default=(2160, 3840), metavar=("H", "W"))
    parser.add_argument("--tiles", nargs="+", default=["whole", "1024x1024", "512x1024"], help="whole, or HxW")
    parser.add_argument("--overlap", type=int, default=-1)
    parser.add_argument("--frames", type=int, default=1, help="frames that are timed; 0: only what a step takes")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)  # A row, in its process.
    options = parser.parse_args()
    if options.alone:
        cache_compilations()
        tile = () if options.tiles == ["whole"] else tuple(map(int, options.tiles[0].split("x")))
        print(row(options.models[0], tuple(options.size), tile, options.overlap if tile else -1, options.frames))
        return 0
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {datetime.date.today()}, {CLASSES} classes\n")
    print("| model | frames | tiles, overlap | a step takes, GB | largest resident, GB | s a frame |")
    print("|---|---|---|---|---|---|", flush=True)
    shared = ["--size", *map(str, options.size), "--overlap", str(options.overlap), "--frames", str(options.frames)]
    for model in options.models:
        for tile in options.tiles:
            argv = [sys.executable, __file__, "--alone", "--models", model, "--tiles", tile, *shared]
            subprocess.run(argv, check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
