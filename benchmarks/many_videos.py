"""Many videos in one command: how fast, by jobs, and whether a run of two processes that are killed at random comes out
as one that was not. Prints a Markdown table; exit status 1 if a file differs.

    python benchmarks/many_videos.py
    python benchmarks/many_videos.py --videos 60 --kills 0 --jobs 1 2 4 --size 480 852

Real commands on drawn videos (H.264) of a few frames, with random weights. A first run fills the cache of compiled
programs, so that rows compare reading, computing and writing; frames/s are of whole processes but for what they take
to start with one video, which is measured. ``--jobs 1`` is one video after the other, the weights loaded once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import jax
import numpy as np
from model import environment, header, line

from cffm_jax.models.create import create_model
from cffm_jax.models.variables import variable_shapes
from cffm_jax.predict.writers import ABOUT
from cffm_jax.rules import setting
from cffm_jax.runtime.command_line import parse_command, run_command
from cffm_jax.weights.files.write import write_safetensors
from cffm_jax.weights.naming.match import export_state_dict

ROOT = Path(__file__).resolve().parents[1]
FILES = {".png", ".csv", ".json"}
"""Of a prediction, those that are the same each time; a video tells how many threads encoded it."""


@dataclasses.dataclass(frozen=True)
class Options:
    model: str = "cffm_b0"
    """Public name."""
    videos: int = setting(300, least=2)
    """How many."""
    frames: int = setting(8, least=1)
    """Of each, and up to five more."""
    size: tuple[int, int] = (240, 320)
    """Height and width of the frames."""
    frame_size: tuple[int, int] = (96, 128)
    """Height and width that the network sees them at."""
    jobs: tuple[int, ...] = setting((1, 2, 3), least=1)
    """Videos in work at a time, a row for each."""
    kills: int = setting(5, least=0)
    """How often the two processes are killed."""
    seed: int = 0
    """Of the moments."""


def write_videos(folder: Path, options: Options) -> int:
    """Videos in seven folders; returns how many frames they have."""
    rng, total = np.random.default_rng(0), 0
    height, width = options.size
    for i in range(options.videos):
        path = folder / str(i % 7) / f"{i}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
        picture = coarse.repeat(8, 0).repeat(8, 1)[:height, :width]
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=15)
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            for n in range(options.frames + i % 6):
                pixels = np.ascontiguousarray(np.roll(picture, 3 * n, 1))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
                total += 1
            container.mux(stream.encode())
    return total


def write_weights(path: Path, name: str) -> None:
    model, rng = create_model(name, 19), np.random.default_rng(0)

    def draw(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        return (rng.standard_normal(leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))).astype(np.float32)

    variables = jax.tree.map(draw, variable_shapes(model))
    write_safetensors(path, export_state_dict(variables, model), {})


def command(folder: Path, videos: str, output: str, options: Options, *more: object) -> list[str]:
    sizes = ("--frame-size", *options.frame_size)
    argv = (ROOT / "predict.py", folder / videos, "--checkpoint", folder / "weights.safetensors", *sizes)
    return [sys.executable, *map(str, (*argv, "--output", folder / output, *more))]


def run(*words: object) -> float:
    """Seconds of a command."""
    began = time.perf_counter()
    done = subprocess.run([*map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"status {done.returncode}: {done.stderr}")
    return time.perf_counter() - began


def contents(folder: Path) -> dict[str, str]:
    """Digest of each file, but for what tells the folder's own name."""
    files = (path for path in folder.rglob("*") if path.suffix in FILES)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def count(folder: Path) -> int:
    return sum(not path.parent.name.startswith(".") for path in folder.glob(f"*/*/{ABOUT}"))


def killed(folder: Path, options: Options) -> tuple[int, list[int]]:
    """Two processes on one folder, killed at random, then left to end: how many files differ from an unbroken run, and
    how many videos were there at each kill."""
    dice, there = random.Random(options.seed), []
    output = folder / "killed"

    def both() -> list[subprocess.Popen]:
        share = ("--cluster.processes", 2, "--cluster.process")
        commands = (command(folder, "videos", "killed", options, *share, process) for process in range(2))
        return [subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE) for words in commands]

    for kill in range(options.kills):
        until = max(count(output), options.videos * (kill + dice.random()) / (options.kills + 1))
        processes = both()
        while count(output) <= until and any(process.poll() is None for process in processes):
            time.sleep(0.02)
        for process in processes:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        there.append(count(output))
    for process in both():
        _, err = process.communicate()
        if process.returncode:
            raise SystemExit(f"status {process.returncode}: {err.decode()}")
    found, expected = contents(output), contents(folder / f"jobs{options.jobs[0]}")
    return sum(found.get(name) != expected.get(name) for name in {*found, *expected}), there


def main(argv: list[str]) -> int:
    if argv[:1] == ["--weights"]:
        write_weights(Path(argv[1]), argv[2])
        return 0
    options = parse_command(Options, argv, lambda _: Options(), __doc__)
    about = environment(argv)
    about["command"] = about["command"].replace("model.py", "many_videos.py", 1)
    print("\n".join(f"- {key}: {value}" for key, value in about.items()))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        frames = write_videos(folder / "videos", options)
        run(sys.executable, __file__, "--weights", folder / "weights.safetensors", options.model)
        print(f"- {options.videos} videos, {frames} frames of {options.size[0]}x{options.size[1]}; {options.model}")
        one = sorted((folder / "videos" / "0").iterdir())[0].relative_to(folder)
        run(*command(folder, str(one), "first", options))
        start = run(*command(folder, str(one), "second", options))
        header("videos at a time", "seconds", "of them to start", "frames/s", "x one after the other")
        base = 0.0
        for jobs in options.jobs:
            seconds = run(*command(folder, "videos", f"jobs{jobs}", options, "--jobs", jobs))
            rate = frames / (seconds - start)
            base = base or rate
            line(jobs, f"{seconds:.1f}", f"{start:.1f}", f"{rate:.1f}", f"{rate / base:.2f}")
        if not options.kills:
            return 0
        differ, there = killed(folder, options)
    header("kills", "videos that were there", "files that differ from an unbroken run")
    line(options.kills, " ".join(map(str, there)), differ)
    return int(differ > 0)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.exit(run_command(main))
