"""Evaluation of a model on a split: masks of whole videos -> scores of the clip's and of the
per-frame logits."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax

from cffm_jax.data.layouts.video import Video
from cffm_jax.evaluation.options import cutoff_of
from cffm_jax.evaluation.sharing import shares
from cffm_jax.inference.labelled_frames import segment_targets
from cffm_jax.inference.whole_videos import Chunk, VideoSegmenter, placing
from cffm_jax.metrics.scores import Scores, VideoTally
from cffm_jax.runtime import cluster
from cffm_jax.runtime.jobs import run_together
from cffm_jax.runtime.progress import Progress
from cffm_jax.runtime.signals import Interruption


def evaluate(
    segmenter: VideoSegmenter,
    variables: dict[str, Any],
    videos: Sequence[Video],
    *,
    watchers: Sequence[Callable[[Chunk], None]] = (),
    copies: Sequence[dict[str, Any]] = (),
    interruption: Interruption | None = None,
) -> dict[str, Scores]:
    """Scores by row of ``Method.rows``: the model's own, then those of its parts down to the
    per-frame logits.

    Of videos of which only some frames have masks only these are scored; they have no video
    consistency, which needs the labels of all frames. Videos without any masks are segmented and
    not scored.

    The devices, and the processes, share the videos (``sharing.shares``), and all processes get the
    scores of all of them: the same as one device's.

    Args:
      segmenter: the compiled model.
      variables: its weights.
      videos: of ``evaluation_videos``.
      watchers: called with each chunk, for example to write its masks: with a video's in their
        order from one thread, with those of several videos from several.
      copies: the weights on further devices, which are used too.
      interruption: of the command, see ``jobs.run_together``.

    Raises:
      InputError, Stopped: as of ``VideoSegmenter.segment`` and ``jobs.run_together``, in all
        processes.
    """
    placed = (variables, *copies)
    mine = shares(videos, cluster.gathered(len(placed)))[jax.process_index()]
    total = sum(len(video.targets) for share in mine for video in share)
    lock = threading.Lock()
    with Progress(total=total, unit="frame", desc="evaluate", disable=not cluster.first(), leave=False) as bar:

        def count(frames: int) -> None:
            with lock:
                bar.update(frames)

        jobs = [
            functools.partial(
                _score, segmenter, weights, share, (*watchers, lambda chunk: count(len(chunk.predictions)))
            )
            for weights, share in zip(placed, mine, strict=True)
            if share
        ]
        parts = run_together(jobs, interruption)
    empty = _empty(segmenter)
    return {row: functools.reduce(Scores.merge, (part[row] for part in parts), empty) for row in segmenter.rows}


def _empty(segmenter: VideoSegmenter) -> Scores:
    return Scores.empty(segmenter.config.model.num_classes, cutoff_of(segmenter.config))


def _score(
    segmenter: VideoSegmenter,
    variables: dict[str, Any],
    videos: Sequence[Video],
    watchers: Sequence[Callable[[Chunk], None]],
    stop: threading.Event,
) -> dict[str, Scores]:
    """One device's share of ``evaluate``; what there is so far when it is to ``stop``."""
    num_classes = segmenter.config.model.num_classes
    rows = {row: _empty(segmenter) for row in segmenter.rows}
    tallies: dict[str, VideoTally] = {}
    with (
        _on_device_of(variables),
        ThreadPoolExecutor(os.cpu_count()) as pool,
        contextlib.closing(_segment(segmenter, variables, videos)) as chunks,
    ):
        for chunk in chunks:
            if stop.is_set():
                break
            targets, sparse = chunk.video.targets, chunk.video.sparse
            if chunk.start == targets[0]:
                tallies = {row: VideoTally.empty(num_classes, sparse) for row in rows}
            if chunk.labels is not None:
                for row, masks in chunk.masks.items():
                    tallies[row] = tallies[row].extend(chunk.labels, masks, pool)
                if chunk.start + len(chunk.predictions) == targets[-1] + 1:
                    for row, tally in tallies.items():
                        rows[row] = rows[row].update(tally.score(chunk.video.name))
            for watch in watchers:
                watch(chunk)
    return rows


def _on_device_of(variables: dict[str, Any]) -> contextlib.AbstractContextManager:
    """Within it what has no place of its own, such as prototypes, is computed where the weights
    are."""
    place = placing(variables)
    devices = place.device_set if place else set()
    if len(devices) != 1 or devices == {jax.local_devices()[0]}:
        return contextlib.nullcontext()  # To say it would compile anew what others have compiled without.
    return jax.default_device(*devices)


def _segment(segmenter: VideoSegmenter, variables: dict[str, Any], videos: Sequence[Video]) -> Generator[Chunk]:
    """The chunks of all videos in order, as each kind of video needs it."""
    kinds = itertools.groupby(videos, lambda video: (video.sparse, bool(video.masks)))
    for (sparse, labels), group in kinds:
        if sparse:
            yield from segment_targets(segmenter, variables, tuple(group))
        else:
            yield from segmenter.segment(variables, tuple(group), labels=labels)
