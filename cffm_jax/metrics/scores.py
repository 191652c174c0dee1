"""The figures of a video, and of a set of videos."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable
from concurrent.futures import Executor

import numpy as np

from cffm_jax.metrics.confusion import Confusion, boundary_confusion, mean
from cffm_jax.metrics.consistency import VideoConsistency, Windows

RELEASE_LONGER_THAN = 16
"""The released script leaves videos with at most so many frames out of every figure."""


@dataclasses.dataclass(frozen=True, eq=False)
class VideoScore:
    """What the figures need of one video.

    Attributes:
      name: name of the video, unique in its split.
      frames: number of its frames that were scored.
      confusion: its confusion matrix.
      boundary: that of ``boundary_confusion``, of one class more.
      windows, right_windows, steady, changed: of `VideoConsistency`; () and 0 for a video that has labels for some
        frames only.
    """

    name: str
    frames: int
    confusion: Confusion
    boundary: Confusion
    windows: tuple[Windows, ...] = ()
    right_windows: tuple[Windows, ...] = ()
    steady: int = 0
    changed: int = 0

    def consistency(self, length: int, with_last: bool) -> float:
        """VC_length of this video; nan without a window."""
        return next((w.mean(with_last) for w in self.windows if w.length == length), math.nan)

    def right_consistency(self, length: int) -> float:
        """CC_length of this video; nan without a window."""
        return next((w.mean(with_last=True) for w in self.right_windows if w.length == length), math.nan)

    def flicker(self) -> float:
        """Share of the steady pixels that change their label; nan without any."""
        return self.changed / self.steady if self.steady else math.nan


@dataclasses.dataclass(frozen=True, eq=False)
class VideoTally:
    """A video's figures so far, fed in the order of its frames.

    Attributes:
      confusion, boundary: see `VideoScore`.
      consistency: None for a video that has labels for some frames only.
      frames: frames fed so far.
    """

    confusion: Confusion
    boundary: Confusion
    consistency: VideoConsistency | None
    frames: int = 0

    @classmethod
    def empty(cls, num_classes: int, sparse: bool = False) -> VideoTally:
        """``sparse``: the frames to come are some of the video's only."""
        steadiness = None if sparse else VideoConsistency.empty()
        return cls(Confusion.empty(num_classes), Confusion.empty(num_classes + 1), steadiness)

    def update(self, label: np.ndarray, prediction: np.ndarray) -> VideoTally:
        """Adds the next frame: label u8[H,W], prediction u8[H,W]. ValueError on a value that is no class."""
        return self.extend(label[None], prediction[None])

    def extend(self, labels: np.ndarray, predictions: np.ndarray, pool: Executor | None = None) -> VideoTally:
        """Adds the next frames, u8[n,H,W] each; ``pool``: threads to share the work, with equal results."""
        k = len(self.confusion.counts)
        pairs = list(zip(labels, predictions, strict=True))
        steadiness = pool and pool.submit(_steadiness, self.consistency, labels, predictions)
        confusion, boundary = self.confusion, self.boundary
        for whole, near in (pool.map if pool else map)(functools.partial(_matrices, num_classes=k), pairs):
            confusion, boundary = confusion.merge(whole), boundary.merge(near)
        steadiness = steadiness.result() if pool else _steadiness(self.consistency, labels, predictions)
        return VideoTally(confusion, boundary, steadiness, self.frames + len(pairs))

    def score(self, name: str) -> VideoScore:
        own = (name, self.frames, self.confusion, self.boundary)
        of = self.consistency
        return VideoScore(*own, of.windows, of.right_windows, of.steady, of.changed) if of else VideoScore(*own)


def _matrices(pair: tuple[np.ndarray, np.ndarray], num_classes: int) -> tuple[Confusion, Confusion]:
    return Confusion.empty(num_classes).update(*pair), boundary_confusion(*pair, num_classes)


def _steadiness(state: VideoConsistency | None, labels: np.ndarray, predictions: np.ndarray) -> VideoConsistency | None:
    return state and state.extend(labels, predictions)


def score_video(
    name: str, frames: Iterable[tuple[np.ndarray, np.ndarray]], num_classes: int, sparse: bool = False
) -> VideoScore:
    """Scores a video from its (label u8[H,W], prediction u8[H,W]) in order, one at a time; ``sparse`` where these are
    some of its frames only."""
    tally = VideoTally.empty(num_classes, sparse)
    for label, prediction in frames:
        tally = tally.update(label, prediction)
    return tally.score(name)


@dataclasses.dataclass(frozen=True)
class Figures:
    """The figures of a set of videos, as shares of 1; nan where nothing was there to measure.

    Attributes:
      videos, frames: how many were counted.
      left_out: videos that were too short to be counted.
      miou, weighted_iou, pixel_accuracy, class_accuracy: of one confusion matrix over all counted videos.
      vc8, vc16: released script: the mean over all windows of all counted videos, each video's last window left out.
      vc8_paper, vc16_paper: Eq. 9: every window, the mean per video, then over videos of any length.
      boundary_iou: mean IoU of the bands along the classes' boundaries, of one matrix over all counted videos.
      cc8, cc16: correct consistency, averaged as in Eq. 9: of the pixels whose class stays the same over a window, the
        share that is predicted right in all of its frames.
      flicker: of the pixels whose class is that of the frame before, the share whose prediction is not, over all frames
        of the counted videos.
    """

    videos: int
    frames: int
    left_out: int
    miou: float
    weighted_iou: float
    pixel_accuracy: float
    class_accuracy: float
    vc8: float
    vc16: float
    vc8_paper: float
    vc16_paper: float
    boundary_iou: float
    cc8: float
    cc16: float
    flicker: float


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """Videos that have been scored. Merging gives the same figures in any order and any grouping.

    Attributes:
      num_classes: K.
      videos: the scores by video, ordered by name.
    """

    num_classes: int
    videos: tuple[VideoScore, ...] = ()

    @classmethod
    def empty(cls, num_classes: int) -> Scores:
        return cls(num_classes)

    def update(self, video: VideoScore) -> Scores:
        return self.merge(Scores(self.num_classes, (video,)))

    def merge(self, other: Scores) -> Scores:
        if other.num_classes != self.num_classes:
            raise ValueError(f"scores of {self.num_classes} and of {other.num_classes} classes do not merge")
        twice = {v.name for v in self.videos} & {v.name for v in other.videos}
        if twice:
            raise ValueError(f"video scored twice: {', '.join(sorted(twice))}")
        return Scores(self.num_classes, tuple(sorted(self.videos + other.videos, key=lambda v: v.name)))

    def longer_than(self, frames: int) -> Scores:
        """Only the videos with more than so many frames, and those of which only some frames have labels: the released
        script's rule is for videos labelled throughout."""
        return Scores(self.num_classes, tuple(v for v in self.videos if v.frames > frames or not v.windows))

    def confusion(self) -> Confusion:
        """One confusion matrix over all videos."""
        return functools.reduce(Confusion.merge, (v.confusion for v in self.videos), Confusion.empty(self.num_classes))

    def boundary_ious(self) -> np.ndarray:
        """f64[K]: Boundary IoU of each class over all videos; nan where it does not occur in the labels."""
        empty = Confusion.empty(self.num_classes + 1)
        return functools.reduce(Confusion.merge, (v.boundary for v in self.videos), empty).ious()[:-1]

    def consistency(self, length: int) -> float:
        """VC_length as in the released script: the mean over all windows of all videos, the last of each left out."""
        windows = [w for v in self.videos for w in v.windows if w.length == length]
        count = sum(w.count for w in windows)
        return math.fsum(w.ratios for w in windows) / count if count else math.nan

    def paper_consistency(self, length: int) -> float:
        """VC_length as in Eq. 9: every window, the mean per video, then over the videos that have a window."""
        means = (v.consistency(length, with_last=True) for v in self.videos)
        return mean(x for x in means if not math.isnan(x))

    def right_consistency(self, length: int) -> float:
        """CC_length: every window, the mean per video, then over the videos that have a window."""
        means = (v.right_consistency(length) for v in self.videos)
        return mean(x for x in means if not math.isnan(x))

    def flicker(self) -> float:
        """Share of the steady pixels of all videos that change their label; nan without any."""
        steady = sum(v.steady for v in self.videos)
        return sum(v.changed for v in self.videos) / steady if steady else math.nan

    def figures(self, longer_than: int = RELEASE_LONGER_THAN) -> Figures:
        """All figures. Videos with at most ``longer_than`` frames count in Eq. 9 alone; 0 counts every video."""
        counted = self.longer_than(longer_than)
        confusion = counted.confusion()
        return Figures(
            videos=len(counted.videos),
            frames=sum(v.frames for v in counted.videos),
            left_out=len(self.videos) - len(counted.videos),
            miou=confusion.miou(),
            weighted_iou=confusion.weighted_iou(),
            pixel_accuracy=confusion.pixel_accuracy(),
            class_accuracy=confusion.class_accuracy(),
            vc8=counted.consistency(8),
            vc16=counted.consistency(16),
            vc8_paper=self.paper_consistency(8),
            vc16_paper=self.paper_consistency(16),
            boundary_iou=mean(x for x in counted.boundary_ious().tolist() if not math.isnan(x)),
            cc8=self.right_consistency(8),
            cc16=self.right_consistency(16),
            flicker=counted.flicker(),
        )
