"""Evaluation of a model on a split: masks of whole videos -> scores of the clip's and of the per-frame logits."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from cffm_jax import cluster
from cffm_jax.config import Config
from cffm_jax.data import layouts
from cffm_jax.errors import InputError
from cffm_jax.inference.offline import Chunk, VideoSegmenter
from cffm_jax.inference.targets import segment_targets
from cffm_jax.metrics import Scores, VideoTally
from cffm_jax.whole import WholeFolder


def evaluation_videos(config: Config) -> tuple[layouts.Video, ...]:
    """The videos of the config's evaluation split, the first ``eval.max_videos`` of them if that is set."""
    videos = layouts.read_videos(config.data, config.data.eval_split)
    return videos[: config.eval.max_videos or None]


def evaluate(
    segmenter: VideoSegmenter,
    variables: dict[str, Any],
    videos: Sequence[layouts.Video],
    *,
    watchers: Sequence[Callable[[Chunk], None]] = (),
    progress: bool = True,
) -> dict[str, Scores]:
    """Scores by row of ``offline.row_names``: the model's own, then those of its parts down to the per-frame logits.

    Of videos of which only some frames have masks only these are segmented, each with its references; they have no
    video consistency, which needs the labels of all frames.

    Several processes share the videos, and all get the scores of all of them: the same as one process's.

    Args:
      segmenter: the compiled model.
      variables: its weights.
      videos: of ``evaluation_videos``.
      watchers: called with each chunk, for example to write its masks.
      progress: whether to show a progress bar with frames/s and time left.
    """
    num_classes = segmenter.config.model.num_classes
    rows = {row: Scores.empty(num_classes) for row in segmenter.rows}
    videos = cluster.share(tuple(videos))
    progress = progress and cluster.first()
    tallies: dict[str, VideoTally] = {}
    total = sum(len(video.targets) for video in videos)
    with tqdm(total=total, unit="frame", desc="evaluate", disable=not progress, leave=False) as bar:
        for chunk in _segment(segmenter, variables, videos):
            targets, sparse = chunk.video.targets, chunk.video.sparse
            if chunk.start == targets[0]:
                tallies = {row: VideoTally.empty(num_classes, sparse) for row in rows}
            for row, masks in chunk.masks.items():
                for label, mask in zip(chunk.labels, masks, strict=True):
                    tallies[row] = tallies[row].update(label, mask)
            if chunk.start + len(chunk.labels) == targets[-1] + 1:
                for row, tally in tallies.items():
                    rows[row] = rows[row].update(tally.score(chunk.video.name))
            for watch in watchers:
                watch(chunk)
            bar.update(len(chunk.labels))
    shares = cluster.gathered(rows)
    return {row: functools.reduce(Scores.merge, (share[row] for share in shares)) for row in rows}


def _segment(segmenter: VideoSegmenter, variables: dict[str, Any], videos: Sequence[layouts.Video]) -> Iterator[Chunk]:
    """The chunks of all videos in order, as each kind of video needs it."""
    for sparse, group in itertools.groupby(videos, lambda video: video.sparse):
        if sparse:
            yield from segment_targets(segmenter, variables, tuple(group))
        else:
            yield from segmenter.segment(variables, tuple(group))


class PredictionWriter:
    """Writes each chunk's masks as indexed PNGs, 0..K-1 with the classes' colours: ``<folder>/<video>/<frame>.png``.

    A context manager: the folder appears at its end, whole, and not after an error.
    """

    def __init__(self, folder: str | Path, colours: np.ndarray):
        """``colours`` u8[256,3], as of ``classes.palette``."""
        if os.path.lexists(folder) and (not os.path.isdir(folder) or os.listdir(folder)):
            raise InputError(folder, "exists and is not empty", "name a new folder for the predictions")
        self._made = WholeFolder(folder)
        self._palette = colours.tobytes()

    def __enter__(self) -> PredictionWriter:
        self._made.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._made.__exit__(*error)

    def __call__(self, chunk: Chunk) -> None:
        with self._made.writing() as root:
            folder = root / chunk.video.name
            folder.mkdir(exist_ok=True)
            for i, mask in enumerate(chunk.own):
                name = os.path.splitext(os.path.basename(chunk.video.frames[chunk.start + i]))[0]
                image = Image.fromarray(mask)
                image.putpalette(self._palette)
                image.save(folder / f"{name}.png")
