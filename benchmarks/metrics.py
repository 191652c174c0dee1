"""Time of the metrics of a video beside a plain NumPy version of the published scripts, on the same masks.

    python benchmarks/metrics.py

The plain version is what the formulas say, written with NumPy: for every window all of its frames are compared anew,
and the confusion matrix is a `bincount` over the labelled pixels. Both run on one core and give the same figures; the
last row is as ``eval.py`` does it, on all cores.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import tyro

from cffm_jax.config import IGNORED_LABEL
from cffm_jax.metrics.boundary import boundary_confusion
from cffm_jax.metrics.confusion import Confusion
from cffm_jax.metrics.consistency import LENGTHS, VideoConsistency
from cffm_jax.metrics.scores import VideoTally, score_video

CHUNK = 8
"""Frames that are fed together, as ``eval.py`` does on GPUs."""


@dataclasses.dataclass(frozen=True)
class Options:
    frames: int = 48
    """Frames of the video."""
    size: tuple[int, int] = (480, 853)
    """Height and width of a frame."""
    classes: int = 124
    """Number of classes."""
    repeats: int = 5
    """How often each is measured, in turns; the median counts."""


def make_video(options: Options) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions u8[T,H,W]: patches with ragged edges that drift, some of them ignored; the predictions err
    along the edges and in whole patches, anew in each frame."""
    rng = np.random.default_rng(0)
    height, width = options.size
    wide = (width + 2 * options.frames, height)
    classes = rng.integers(0, options.classes, (10, 16), np.uint8)
    classes[rng.random(classes.shape) < 0.1] = IGNORED_LABEL
    scene = ragged(classes, wide, rng)
    labels = np.stack([scene[:, 2 * t : 2 * t + width] for t in range(options.frames)])
    predictions = []
    for label in labels:
        other = ragged(rng.integers(0, options.classes, (10, 16), np.uint8), (width, height), rng)
        wrong = ragged((rng.random((20, 32)) < 0.2).astype(np.uint8), (width, height), rng)
        shifted = np.roll(label, rng.integers(-3, 4, 2), (0, 1))
        predictions.append(np.where(wrong | (shifted == IGNORED_LABEL), other, shifted))
    return labels, np.stack(predictions)


def ragged(classes: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Enlarged to (width, height), with edges that a smooth noise of some pixels has bent."""
    width, height = size
    shift = [cv2.resize(rng.normal(0, 12, (height // 16, width // 16)).astype(np.float32), size) for _ in range(2)]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    rows, columns = classes.shape
    y, x = (y + shift[0]) * rows / height, (x + shift[1]) * columns / width
    return classes[y.astype(int).clip(0, rows - 1), x.astype(int).clip(0, columns - 1)]


def plain_confusion(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """i64[K,K], frame by frame."""
    counts = np.zeros((classes, classes), np.int64)
    for label, prediction in zip(labels, predictions, strict=True):
        known = label < classes
        joined = classes * label[known].astype(int) + prediction[known]
        counts += np.bincount(joined, minlength=classes**2).reshape(classes, classes)
    return counts


def plain_consistency(labels: np.ndarray, predictions: np.ndarray, length: int) -> float:
    """Mean over all windows of consistent / stable pixels."""
    ratios = []
    for start in range(len(labels) - length + 1):
        window = slice(start, start + length)
        stable = (labels[window] == labels[start]).all(0)
        same = (predictions[window] == predictions[start]).all(0)
        ratios.append((stable & same).sum() / stable.sum())
    return float(np.mean(ratios))


def median_ms(run: dict[str, Callable[[], object]], repeats: int, frames: int) -> dict[str, float]:
    """Milliseconds a frame; all are run in turns."""
    times: dict[str, list[float]] = {name: [] for name in run}
    for _ in range(repeats):
        for name, function in run.items():
            began = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - began)
    return {name: 1e3 * statistics.median(each) / frames for name, each in times.items()}


def consistency(labels: np.ndarray, predictions: np.ndarray) -> VideoConsistency:
    state = VideoConsistency.empty()
    for start in range(0, len(labels), CHUNK):
        state = state.extend(labels[start : start + CHUNK], predictions[start : start + CHUNK])
    return state


def confusion(labels: np.ndarray, predictions: np.ndarray, classes: int) -> Confusion:
    counts = Confusion.empty(classes)
    for label, prediction in zip(labels, predictions, strict=True):
        counts = counts.update(label, prediction)
    return counts


def main(options: Options) -> None:
    """Prints milliseconds a frame, ours and plain."""
    cv2.setNumThreads(1)
    labels, predictions = make_video(options)
    k = options.classes
    np.testing.assert_array_equal(confusion(labels, predictions, k).counts, plain_confusion(labels, predictions, k))
    for windows in consistency(labels, predictions).windows:
        plain = plain_consistency(labels, predictions, windows.length)
        np.testing.assert_allclose(windows.mean(with_last=True), plain, rtol=1e-12)
    pool = ThreadPoolExecutor(os.cpu_count())
    ms = median_ms(
        {
            "confusion": lambda: confusion(labels, predictions, k),
            "plain confusion": lambda: plain_confusion(labels, predictions, k),
            "steadiness": lambda: consistency(labels, predictions),
            "plain VC": lambda: [plain_consistency(labels, predictions, n) for n in LENGTHS],
            "boundary": lambda: [boundary_confusion(a, b, k) for a, b in zip(labels, predictions, strict=True)],
            "all": lambda: score_video("a", zip(labels, predictions, strict=True), k),
            "all, threads": lambda: VideoTally.empty(k).extend(labels, predictions, pool),
        },
        options.repeats,
        options.frames,
    )
    height, width = options.size
    print(f"{height}x{width}, {k} classes, {options.frames} frames; {platform.machine()}, {platform.system()}")
    print("\n| ms a frame | ours | plain NumPy | ratio |\n|---|---|---|---|")
    plain = ms["plain confusion"] + ms["plain VC"]
    ours = ms["confusion"] + ms["steadiness"]
    rows = [
        ("confusion matrix", ms["confusion"], ms["plain confusion"]),
        ("VC8 and VC16 (ours: CC8, CC16 and flicker too)", ms["steadiness"], ms["plain VC"]),
        ("both", ours, plain),
    ]
    for name, own, other in rows:
        print(f"| {name} | {own:.2f} | {other:.2f} | {other / own:.1f} |")
    print(f"| boundary IoU | {ms['boundary']:.2f} | | |")
    print(f"| everything (`score_video`) | {ms['all']:.2f} | | |")
    print(f"| everything, {os.cpu_count()} threads (`VideoTally.extend`) | {ms['all, threads']:.2f} | | |")


if __name__ == "__main__":
    main(tyro.cli(Options))
