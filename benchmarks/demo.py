"""The whole way on a laptop: synthetic videos -> training -> evaluation -> pictures, with the real commands.

Run by ``make demo``, with a small network that learns in a minute. ``make demo DEMO_ARGS="--config synthetic --folder
demo_b0"`` trains a whole CFFM-B0 for longer; ``--seeds 0 1 2`` trains three networks and prints mean and spread. What
was done already (videos, a trained network) is not done again.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import tyro
from PIL import Image

from cffm_jax.data import decode
from cffm_jax.data.layouts.read import read_split
from cffm_jax.metrics.confusion import Confusion
from cffm_jax.metrics.scores import Scores, score_video
from cffm_jax.rules import setting
from cffm_jax.settings import load_config

ROOT = Path(__file__).resolve().parents[1]
FIGURES = {
    "mIoU": "miou", "wIoU": "weighted_iou", "pixel acc.": "pixel_accuracy",
    "VC8": "vc8", "VC16": "vc16", "VC8 Eq. 9": "vc8_paper", "VC16 Eq. 9": "vc16_paper",
}  # fmt: skip

MINUTES = {"demo": 3, "synthetic": 11}
"""What a network of each config takes, see docs/demo.md."""
VIDEOS = {"demo": ("--videos-train", "24", "--videos-test", "0")}
"""Fewer than there would be."""
FRAMES = 24
"""Of the moving picture: one video."""


@dataclasses.dataclass(frozen=True)
class DemoOptions:
    folder: str = setting("demo", path=True)
    """Where everything goes."""
    config: Literal["demo", "synthetic"] = "demo"
    """Of configs/: a small network, or CFFM-B0."""
    seeds: tuple[int, ...] = (0,)
    """A network is trained for each."""
    steps: int = 0
    """Training iterations; 0: as the config says."""


def run(*command: str) -> float:
    """Shows and runs one of the project's commands, and returns how many minutes it took; a failure ends the demo
    with its status."""
    began = time.time()
    print(f"\n$ python {' '.join(command)}", flush=True)
    status = subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode
    if status:
        sys.exit(status)
    return (time.time() - began) / 60


def require_one_compilation(workdir: Path) -> None:
    """No training step may be compiled twice: that the next ones are waited for too shows nowhere else."""
    entries = [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]
    found = max(entry.get("compilations", 0) for entry in entries)
    if found != 1:
        sys.exit(f"error: {workdir}/log.jsonl: the training step was compiled {found} times, not once")


def most_frequent_class(root: str, num_classes: int) -> Scores:
    """Scores of answering every pixel with the training split's most frequent class."""
    counts = np.zeros(num_classes, np.int64)
    for video in read_split(root, "train"):
        labels = decode.read_mask(video.masks[0], num_classes, video.coding)
        counts += Confusion.empty(num_classes).update(labels, np.zeros_like(labels)).pixels()
    scores = Scores.empty(num_classes)
    for video in read_split(root, "val"):
        masks = (decode.read_mask(path, num_classes, video.coding) for path in video.masks)
        pairs = ((mask, np.full_like(mask, counts.argmax())) for mask in masks)
        scores = scores.update(score_video(video.name, pairs, num_classes))
    return scores


def table(results: Sequence[dict], constant: Scores) -> str:
    """Markdown: a row for each kind of logits; with several seeds the mean and the standard deviation."""
    lines = ["| % | " + " | ".join(FIGURES) + " |", "|---" * (len(FIGURES) + 1) + "|"]
    figures = constant.figures()
    lines.append("| most frequent class | " + " | ".join(f"{100 * figures[f]:.1f}" for f in FIGURES.values()) + " |")
    for row in reversed(results[0]["rows"]):
        cells = []
        for figure in FIGURES.values():
            values = [100 * (r["rows"][row][figure] or math.nan) for r in results]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.1f}{spread}")
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def moving_picture(video: Path, path: Path) -> None:
    """The first frames of a video as an animated WebP, at most 960 pixels wide, as the README shows it."""
    reader, pictures = cv2.VideoCapture(str(video)), []
    while len(pictures) < FRAMES:
        read, frame = reader.read()
        if not read:
            break
        scale = min(1.0, 960 / frame.shape[1])
        small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        pictures.append(Image.fromarray(np.ascontiguousarray(small[..., ::-1])))
    reader.release()
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=150, loop=0, quality=70)


def main() -> None:
    began = time.time()
    options = tyro.cli(DemoOptions, description=__doc__)
    folder, config = Path(options.folder), load_config(options.config)
    videos, minutes = str(folder / "videos"), {"training": 0.0, "evaluation and pictures": 0.0}
    count = options.steps or config.train.steps
    print(
        f"Makes small videos, trains {config.model.name} (configs/{options.config}.py) on them for {count} steps from "
        "random weights, evaluates it and draws its masks beside the per-frame ones. With "
        f"{config.train.steps} steps that takes some {MINUTES[options.config]} minutes on two quiet CPU cores."
    )
    minutes = {"videos": run("-m", "cffm_jax.data.synthetic", videos, *VIDEOS.get(options.config, ())), **minutes}
    results = []
    for seed in options.seeds:
        workdir = str(folder / f"seed{seed}")
        # Of one video alone: the evaluation of all follows.
        shared = ("--data.root", videos, "--eval.max_videos", "1", "--workdir", workdir, "--train.seed", str(seed))
        steps = ("--train.steps", str(options.steps)) if options.steps else ()
        minutes["training"] += run("train.py", "--config", options.config, *shared, *steps)
        require_one_compilation(ROOT / workdir)
        output = str(folder / f"seed{seed}.json")
        drawn = ("--pictures", str(folder / "pictures"), "--report", str(folder / "report"))
        first = drawn if seed == options.seeds[0] else ()
        whole = ("--checkpoint", workdir, "--eval.max_videos", "0", "--output", output)
        minutes["evaluation and pictures"] += run("eval.py", *whole, *first)
        results.append(json.loads((ROOT / output).read_text()))
    print(f"\n{config.model.name}, {len(results)} seed(s), validation videos of {videos}:\n")
    print(table(results, most_frequent_class(ROOT / videos, config.model.num_classes)))
    pictures = folder / "pictures"
    moving_picture(ROOT / pictures / "overlay.mp4", ROOT / pictures / "overlay.webp")
    print(f"\nReport: {folder}/report/index.html, to look at in a browser")
    print(f"Pictures: {pictures}/sheet.png, {pictures}/overlay.mp4 (its beginning as overlay.webp)")
    parts = ", ".join(f"{part} {each:.1f}" for part, each in minutes.items())
    print(f"Took {(time.time() - began) / 60:.1f} min ({parts}).")


if __name__ == "__main__":
    main()
