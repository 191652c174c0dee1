"""The figures of a video, and of a set of videos: whatever ``all_metrics`` lists."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from typing import Any

import numpy as np
from jaxtyping import Shaped

from cffm_jax.metrics import all_metrics
from cffm_jax.metrics.confusion import CONFUSION, Confusion
from cffm_jax.metrics.metric import Metric, Statistic, mean

RELEASE_LONGER_THAN = 16
"""The released script leaves videos with at most so many frames out of every figure: a rule of
VSPW's benchmark."""


@dataclasses.dataclass(frozen=True, eq=False)
class VideoScore:
    """The sums of one video, which the metrics are computed from.

    Attributes:
      name: name of the video, unique in its split.
      frames: number of its frames that were scored.
      sparse: whether these are some of its frames only.
      sums: the finished sums by the name of their statistic.
    """

    name: str
    frames: int
    sparse: bool
    sums: Mapping[str, Any]

    def figure(self, metric: Metric) -> float:
        """The metric of this video; nan where nothing was there to measure."""
        sums = self.sums.get(metric.statistic.name)
        return math.nan if sums is None else metric.value(sums)


def _statistics(sparse: bool) -> list[Statistic]:
    """The statistics that the metrics need, each once; ``sparse``: those of single frames."""
    needed = dict.fromkeys(metric.statistic for metric in all_metrics.METRICS)
    return [statistic for statistic in needed if not (sparse and statistic.whole_videos)]


@dataclasses.dataclass(frozen=True, eq=False)
class VideoTally:
    """A video's sums so far, fed in the order of its frames.

    Attributes:
      num_classes: K.
      sparse: see `VideoScore`.
      sums: by the name of their statistic.
      frames: number of frames fed so far.
    """

    num_classes: int
    sparse: bool
    sums: Mapping[str, Any]
    frames: int = 0

    @classmethod
    def empty(cls, num_classes: int, sparse: bool = False) -> VideoTally:
        """``sparse``: the frames to come are some of the video's only."""
        return cls(num_classes, sparse, {s.name: s.empty(num_classes) for s in _statistics(sparse)})

    def update(self, label: Shaped[np.ndarray, "_ _"], prediction: Shaped[np.ndarray, "_ _"]) -> VideoTally:
        """Adds the next frame; ValueError on a value that is no class."""
        return self.extend(label[None], prediction[None])

    def extend(
        self,
        labels: Shaped[np.ndarray, "n _ _"],
        predictions: Shaped[np.ndarray, "n _ _"],
        pool: Executor | None = None,
    ) -> VideoTally:
        """Adds the next frames; ``pool``: threads to share the work, with equal results."""
        pairs = list(zip(labels, predictions, strict=True))
        in_order = {s.name: s for s in _statistics(self.sparse) if s.whole_videos}
        apart = {s.name: s for s in _statistics(self.sparse) if not s.whole_videos}

        def add_in_order(name: str) -> Any:
            return in_order[name].add(self.sums[name], labels, predictions)

        started = [pool.submit(add_in_order, name) for name in in_order] if pool else []
        by_frame = list((pool.map if pool else map)(functools.partial(_frame_sums, apart, self.num_classes), pairs))
        sums = {name: s.total([self.sums[name], *(frame[name] for frame in by_frame)]) for name, s in apart.items()}
        added = [future.result() for future in started] if pool else map(add_in_order, in_order)
        return VideoTally(
            self.num_classes, self.sparse, sums | dict(zip(in_order, added)), self.frames + len(pairs)
        )  # fmt: skip

    def score(self, name: str) -> VideoScore:
        """The score of the video after its last frame."""
        finished = {s.name: s.finish(self.sums[s.name]) for s in _statistics(self.sparse)}
        return VideoScore(name, self.frames, self.sparse, finished)


def _frame_sums(
    statistics: Mapping[str, Statistic], num_classes: int, pair: tuple[np.ndarray, np.ndarray]
) -> dict[str, Any]:
    label, prediction = pair
    return {name: s.add(s.empty(num_classes), label[None], prediction[None]) for name, s in statistics.items()}


def score_video(
    name: str,
    frames: Iterable[tuple[Shaped[np.ndarray, "_ _"], Shaped[np.ndarray, "_ _"]]],
    num_classes: int,
    sparse: bool = False,
) -> VideoScore:
    """Scores a video from (label, prediction) in order; ``sparse``: of some of its frames only."""
    tally = VideoTally.empty(num_classes, sparse)
    for label, prediction in frames:
        tally = tally.update(label, prediction)
    return tally.score(name)


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """Videos that have been scored. Merging gives the same figures in any order and any grouping.

    Attributes:
      num_classes: K.
      videos: the scores by video, ordered by name.
      cutoff: frames up to which a video is left out of the figures (not of those that count short
        ones too); 0: none is.
    """

    num_classes: int
    videos: tuple[VideoScore, ...] = ()
    cutoff: int = RELEASE_LONGER_THAN

    @classmethod
    def empty(cls, num_classes: int, cutoff: int = RELEASE_LONGER_THAN) -> Scores:
        return cls(num_classes, cutoff=cutoff)

    def update(self, video: VideoScore) -> Scores:
        return self.merge(dataclasses.replace(self, videos=(video,)))

    def merge(self, other: Scores) -> Scores:
        """The videos of both. ValueError for other classes or another cutoff, or for a video that
        both have."""
        if other.num_classes != self.num_classes:
            raise ValueError(f"scores of {self.num_classes} and of {other.num_classes} classes do not merge")
        if other.cutoff != self.cutoff:
            raise ValueError(f"scores of videos of over {self.cutoff} and over {other.cutoff} frames do not merge")
        twice = {v.name for v in self.videos} & {v.name for v in other.videos}
        if twice:
            raise ValueError(f"video scored twice: {', '.join(sorted(twice))}")
        return dataclasses.replace(self, videos=tuple(sorted(self.videos + other.videos, key=lambda v: v.name)))

    def total(self, statistic: Statistic) -> Any:
        """The sums of all videos that have these."""
        sums = [v.sums[statistic.name] for v in self.videos if statistic.name in v.sums]
        return statistic.total([statistic.finish(statistic.empty(self.num_classes)), *sums])

    def confusion(self) -> Confusion:
        """One confusion matrix over all videos."""
        return self.total(CONFUSION)

    def counted(self) -> Scores:
        """Only the videos with more frames than the cutoff, and those labelled in some frames only:
        the released script's rule is for videos labelled throughout."""
        return dataclasses.replace(self, videos=tuple(v for v in self.videos if v.frames > self.cutoff or v.sparse))

    def measured(self) -> dict[str, int]:
        """In how many of the videos that count each metric of whole videos could be measured."""
        counted = self.counted()
        return {
            metric.key: sum(
                not math.isnan(video.figure(metric)) for video in (self if metric.short_videos else counted).videos
            )
            for metric in all_metrics.METRICS
            if metric.statistic.whole_videos
        }

    def figures(self) -> dict[str, float]:
        """All figures of the videos that count (in some metrics those up to the cutoff too).

        Returns:
          How many ``videos`` and ``frames`` were counted, how many videos were too short
          (``left_out``), and every metric by its key, nan where nothing was there to measure.
        """
        counted = self.counted()
        figures: dict[str, float] = {
            "videos": len(counted.videos),
            "frames": sum(v.frames for v in counted.videos),
            "left_out": len(self.videos) - len(counted.videos),
        }
        totals: dict[tuple[Statistic, Scores], Any] = {}
        for metric in all_metrics.METRICS:
            scores = self if metric.short_videos else counted
            if metric.mean_of_videos:
                figures[metric.key] = mean(video.figure(metric) for video in scores.videos)
                continue
            place = metric.statistic, scores
            if place not in totals:
                totals[place] = scores.total(metric.statistic)
            figures[metric.key] = metric.value(totals[place])
        return figures
