"""A made-up evaluation, for tests of the report: many videos of which each has the same few files on disk."""

import dataclasses
import itertools

import cv2
import numpy as np

from cffm_jax.config import Config
from cffm_jax.data.class_names import VSPW
from cffm_jax.data.layouts.classes import Classes
from cffm_jax.data.layouts.video import Video
from cffm_jax.data.layouts.vspw import CODING
from cffm_jax.drawing.palette import palette
from cffm_jax.evaluation.report import write
from cffm_jax.metrics.consistency import Steadiness, Windows
from cffm_jax.metrics.scores import Scores, score_video

from helpers.datasets import classes_of, frame, write_png

ROWS = ("CFFM++", "CFFM++, causal", "CFFM", "per-frame (SegFormer)")
K = len(VSPW)
DATASET = Classes(VSPW, palette(K))


def made_videos(folder, count, frames=20, size=(480, 853)):
    """``count`` videos of the same frames, three of them again and again; with grain, as a camera has it."""
    for i in range(3):
        picture = frame(i, size)
        grain = np.random.default_rng(i).integers(0, 24, (*size, 3))
        write_png(folder / f"{i}.png", np.clip(picture + grain, 0, 255).astype(np.uint8))
        write_png(folder / f"{i}_mask.png", classes_of(picture, K) + np.uint8(1))
    files = tuple(str(folder / f"{i % 3}.png") for i in range(frames))
    masks = tuple(path.replace(".png", "_mask.png") for path in files)
    return tuple(Video(f"{n}_video", files, masks, CODING) for n in range(count))


def made_scores(videos, rows=ROWS, classes=K):
    """Scores of random masks; not more than ten different ones, since they hold large matrices."""
    rng = np.random.default_rng(0)
    scored = {row: [] for row in rows}
    for n in range(min(len(videos), 10)):
        label = rng.integers(0, classes, (30, 40)).astype(np.uint8)
        for i, row in enumerate(rows):
            wrong = rng.random(label.shape) < rng.uniform(0.1, 0.4) + 0.1 * i
            mask = np.where(wrong, rng.integers(0, classes, label.shape), label).astype(np.uint8)
            first = score_video("", [(label, mask)], classes, videos[n].sparse)
            scored[row].append(dataclasses.replace(first, frames=len(videos[n].targets)))

    def sums(video, i, scored):
        if video.sparse:
            return scored.sums
        share = np.random.default_rng([i, *video.name.encode()]).uniform(0.6, 0.9) - 0.1 * i
        windows = tuple(Windows(n, 5 * x, 5, x) for n, x in ((8, share + 0.07), (16, share)))
        return {**scored.sums, "steadiness": Steadiness(windows, windows, 1000, int(1000 * (1 - share)))}

    def all_of(row, i):
        made = [
            dataclasses.replace(of, name=video.name, sums=sums(video, i, of))
            for of, video in zip(itertools.cycle(scored[row]), videos)
        ]
        return Scores(classes, tuple(sorted(made, key=lambda video: video.name)))

    return {row: all_of(row, i) for i, row in enumerate(rows)}


def shifted_masks(video, rows=ROWS, classes=K):
    """Masks as `write.Samples`: the truth's pattern, moved."""
    samples = {}
    for time in video.targets[:: max(1, len(video.targets) // 3)][:3]:
        mask = classes_of(cv2.blur(cv2.imread(video.frames[time]), (9, 9)), classes)
        samples[time] = {row: np.roll(mask, 9 * i + 5, 1) for i, row in enumerate(rows)}
    return samples


def made_about(model="cffmpp_b1", root="data/VSPW_480p", facts=None, dataset=DATASET):
    config = dataclasses.replace(Config(), data=dataclasses.replace(Config().data, root=root))
    return write.about(config, dataset, facts or {"checkpoint": "runs/cffmpp_b1_vspw"}, model)


def made_report(folder, videos, scores=None):
    """The page of a CFFM++ on videos like VSPW's."""
    about = made_about()
    return write.write_report(folder, scores or made_scores(videos), about, DATASET, videos, shifted_masks)
