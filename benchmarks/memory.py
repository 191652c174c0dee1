"""Memory of ``predict.py`` over a long video: python benchmarks/memory.py

A video of 10,000 small frames goes through the real reader, network and writers (masks, overlay, shares), in this
process; its resident memory after the first 1,000 frames is compared with that after the last.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import gc
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from cffm_jax.config import Config, DataConfig, ModelConfig, PrototypeConfig
from cffm_jax.inference import load as weights
from cffm_jax.models.create import create_model
from cffm_jax.models.variables import init_variables
from cffm_jax.predict import job
from cffm_jax.predict.request import Request
from cffm_jax.runtime.memory import share_freed_memory

SIZE = (64, 96)
CLASSES = 8
LIMIT_MB = 5.0


def resident_mb() -> float:
    """Memory of this process that is not swapped or given back, by the operating system (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def make_video(path: Path, frames: int) -> None:
    """Blocks of colour that drift over each other, in H.264."""
    import av

    rng = np.random.default_rng(0)
    field = np.kron(rng.integers(0, 256, (16, 64, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=15, options={"preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for i in range(frames):
            pixels = np.roll(field, (i // 3, i), (0, 1))[: SIZE[0], : SIZE[1]]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def watched(frames: Iterator[np.ndarray], every: int, readings: dict[int, float]) -> Iterator[np.ndarray]:
    """The same frames; memory is read after every so many."""
    for number, frame in enumerate(frames):
        if number % every == 0:
            gc.collect()
            readings[number] = resident_mb()
        yield frame
    gc.collect()
    readings[number + 1] = resident_mb()


def measure(name: str, count: int, options: dict) -> dict[int, float]:
    """Memory in MB by the number of frames that were read."""
    config = Config(
        model=ModelConfig(name, CLASSES),
        data=DataConfig(root="", layout="folder", frame_size=SIZE),
        prototypes=PrototypeConfig(count=20),
    )
    model = create_model(name, CLASSES)
    variables = jax.device_get(init_variables(model, jax.random.key(0)))
    readings: dict[int, float] = {}

    class Watched(weights.Weights):
        def predictions(self, frames, **more):
            yield from super().predictions(watched(frames, max(1, count // 10), readings), **more)

    load, weights.load = weights.load, lambda path: Watched(model, variables, config, "random", "")
    try:
        with tempfile.TemporaryDirectory() as folder:
            video = Path(folder) / "video.mp4"
            make_video(video, count)
            print(job.predict(Request(inputs=(str(video),), checkpoint="random", **options)))
    finally:
        weights.load = load
    return readings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="cffm_b0")
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--masks", choices=("png", "npz"), default="png")
    options = parser.parse_args()
    if options.frames < 10:
        parser.error("give at least 10 --frames")
    share_freed_memory()  # As the command does.
    began = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        readings = measure(options.model, options.frames, {"masks": options.masks, "legend": True})
    first, *rest = list(readings.values())[1:]
    grown = max(rest) - first
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {datetime.date.today()}, {options}\n")
    print("| frames | resident, MB |\n|---|---|")
    for number, used in readings.items():
        print(f"| {number:,} | {used:.1f} |")
    print(f"\nafter the first tenth at most {grown:+.1f} MB, in {time.perf_counter() - began:.0f} s")
    return int(grown >= LIMIT_MB)


if __name__ == "__main__":
    sys.exit(main())
