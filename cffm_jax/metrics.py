"""Figures of video semantic segmentation as sums: empty, update, merge, then compute.

Confusion matrix with (mean, weighted) IoU and accuracies, and the video consistency VC_n of Miao et al., "VSPW" (CVPR
2021, Eq. 9): of the pixels whose label stays the same over a window of n frames, the share whose prediction stays the
same. Both need one pass over a video, one frame at a time, in constant memory.

Shapes: H, W frame; K classes. Labels and predictions are 0..K-1; ``IGNORED_LABEL`` in the labels is not counted by the
confusion matrix. For the video consistency an ignored label is a label like any other.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable

import numpy as np

from cffm_jax.config import IGNORED_LABEL

LENGTHS = (8, 16)
"""Window lengths n of the published VC_n."""
RELEASE_LONGER_THAN = 16
"""The released script leaves videos with at most so many frames out of every figure."""


def _as_bytes(array: np.ndarray, what: str) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind not in "iub" or (array.size and (array.min() < 0 or array.max() > 255)):
        raise ValueError(f"{what} must be integers in 0..255, got {array.dtype}")
    return array.astype(np.uint8)


@dataclasses.dataclass(frozen=True, eq=False)
class Confusion:
    """Pixels by (label, prediction).

    Attributes:
      counts: i64[K,K], row = label, column = prediction.
    """

    counts: np.ndarray

    @classmethod
    def empty(cls, num_classes: int) -> Confusion:
        if not 1 <= num_classes <= IGNORED_LABEL:
            raise ValueError(f"num_classes must be in 1..{IGNORED_LABEL}, got {num_classes}")
        return cls(np.zeros((num_classes, num_classes), np.int64))

    def update(self, labels: np.ndarray, predictions: np.ndarray) -> Confusion:
        """Adds u8[...] labels and predictions of equal shape. ValueError on a value that is no class."""
        labels, predictions = _as_bytes(labels, "labels"), _as_bytes(predictions, "predictions")
        if labels.shape != predictions.shape:
            raise ValueError(f"labels {labels.shape} and predictions {predictions.shape} differ in shape")
        # The joined 16-bit index needs no mask: rows and columns beyond the classes are cut off after counting.
        joined = labels.astype(np.uint16)
        joined <<= 8
        joined |= predictions
        table = np.bincount(joined.reshape(-1), minlength=1 << 16).reshape(256, 256)
        k = len(self.counts)
        counted = table[:k, :k]
        if counted.sum() + table[IGNORED_LABEL].sum() != labels.size:
            wrong_label = table[k:IGNORED_LABEL].any()
            raise ValueError(f"{'labels' if wrong_label else 'predictions'} hold a value that is not in 0..{k - 1}")
        return Confusion(self.counts + counted)

    def merge(self, other: Confusion) -> Confusion:
        return Confusion(self.counts + other.counts)

    def pixels(self) -> np.ndarray:
        """i64[K]: labelled pixels of each class."""
        return self.counts.sum(1)

    def ious(self) -> np.ndarray:
        """f64[K]: intersection over union of each class; nan where the class does not occur in the labels."""
        union = self.counts.sum(0) + self.counts.sum(1) - np.diag(self.counts)
        return _ratio(np.diag(self.counts), np.where(self.pixels() > 0, union, 0))

    def accuracies(self) -> np.ndarray:
        """f64[K]: share of each class's pixels that are predicted as it; nan where it does not occur in the labels."""
        return _ratio(np.diag(self.counts), self.pixels())

    def miou(self) -> float:
        """Mean IoU over the classes that occur in the labels; nan without any."""
        return _mean(x for x in self.ious().tolist() if not math.isnan(x))

    def class_accuracy(self) -> float:
        """Mean accuracy over the classes that occur in the labels; nan without any."""
        return _mean(x for x in self.accuracies().tolist() if not math.isnan(x))

    def weighted_iou(self) -> float:
        """IoU weighted by how often each class occurs in the labels; nan without any."""
        pixels = self.pixels()
        total = int(pixels.sum())
        return float(np.nansum(self.ious() * pixels) / total) if total else math.nan

    def pixel_accuracy(self) -> float:
        """Share of the labelled pixels that are predicted right; nan without any."""
        total = int(self.counts.sum())
        return float(np.trace(self.counts) / total) if total else math.nan


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _mean(values: Iterable[float]) -> float:
    """Mean, the same in any order of the values; nan of none."""
    values = list(values)
    return math.fsum(values) / len(values) if values else math.nan


@dataclasses.dataclass(frozen=True)
class Windows:
    """The windows of one length in one video: sums of consistent / stable pixels, the last window apart.

    Attributes:
      length: n, frames of a window.
      ratios: sum of the ratios of all windows but the last.
      count: number of those windows; a window without stable pixels is none.
      last: ratio of the last window; nan if it has no stable pixels or the video has fewer than n frames.
    """

    length: int
    ratios: float = 0.0
    count: int = 0
    last: float = math.nan

    def _close_last(self) -> Windows:
        """Counts the last window among the others."""
        if math.isnan(self.last):
            return self
        return Windows(self.length, self.ratios + self.last, self.count + 1)

    def update(self, stable: int, consistent: int) -> Windows:
        """Adds the next window."""
        return dataclasses.replace(self._close_last(), last=consistent / stable if stable else math.nan)

    def mean(self, with_last: bool) -> float:
        """Mean ratio, with the last window (Eq. 9) or without (released script); nan without any window."""
        windows = self._close_last() if with_last else self
        return windows.ratios / windows.count if windows.count else math.nan


@dataclasses.dataclass(frozen=True, eq=False)
class VideoConsistency:
    """Video consistency of one video, fed frame by frame.

    A window of n frames that ends now is stable at a pixel whose label has stayed the same for at least n frames. So
    all that is kept of a pixel is for how long its label, and for how long label and prediction, have stayed the same.

    Attributes:
      windows: the finished windows, by length.
      frames: frames fed so far.
      pixels: stable and consistent pixels of the window of each length that ends at the latest frame; None while the
        video is shorter than the window.
    """

    windows: tuple[Windows, ...]
    frames: int = 0
    pixels: tuple[tuple[int, int] | None, ...] = ()
    label: np.ndarray | None = None
    prediction: np.ndarray | None = None
    label_run: np.ndarray | None = None
    both_run: np.ndarray | None = None

    @classmethod
    def empty(cls, lengths: tuple[int, ...] = LENGTHS) -> VideoConsistency:
        if not lengths or min(lengths) < 1 or max(lengths) > 254:
            raise ValueError(f"window lengths must be in 1..254, got {lengths}")
        return cls(tuple(Windows(n) for n in lengths), pixels=(None,) * len(lengths))

    def update(self, label: np.ndarray, prediction: np.ndarray) -> VideoConsistency:
        """Feeds the next frame: label u8[H,W], prediction u8[H,W]."""
        label, prediction = _as_bytes(label, "label"), _as_bytes(prediction, "prediction")
        if label.shape != prediction.shape or (self.frames and label.shape != self.label.shape):
            shapes = [x.shape for x in (self.label, label, prediction) if x is not None]
            raise ValueError(f"label and prediction of a video must keep one shape, got {shapes}")
        longest = max(w.length for w in self.windows)
        if self.frames:
            same_label = label == self.label
            label_run = _lengthen(self.label_run, same_label, longest)
            same_label &= prediction == self.prediction
            both_run = _lengthen(self.both_run, same_label, longest)
        else:
            label_run = both_run = np.ones(label.shape, np.uint8)
        frames = self.frames + 1
        pixels = tuple(
            (int(np.count_nonzero(label_run >= w.length)), int(np.count_nonzero(both_run >= w.length)))
            if frames >= w.length
            else None
            for w in self.windows
        )
        windows = tuple(w if p is None else w.update(*p) for w, p in zip(self.windows, pixels, strict=True))
        # Copies: the caller may reuse its frame buffers.
        return VideoConsistency(windows, frames, pixels, label.copy(), prediction.copy(), label_run, both_run)


def _lengthen(run: np.ndarray, same: np.ndarray, longest: int) -> np.ndarray:
    """run u8[H,W] + 1 where same, else 1; never above longest."""
    run = run * same
    run += 1
    return np.minimum(run, longest, out=run)


@dataclasses.dataclass(frozen=True, eq=False)
class VideoScore:
    """What the figures need of one video.

    Attributes:
      name: name of the video, unique in its split.
      frames: number of its frames that were scored.
      confusion: its confusion matrix.
      windows: its consistency windows, by length; () for a video that has labels for some frames only.
    """

    name: str
    frames: int
    confusion: Confusion
    windows: tuple[Windows, ...]

    @classmethod
    def of(cls, name: str, confusion: Confusion, consistency: VideoConsistency) -> VideoScore:
        return cls(name, consistency.frames, confusion, consistency.windows)

    def consistency(self, length: int, with_last: bool) -> float:
        """VC_length of this video; nan without a window."""
        return next((w.mean(with_last) for w in self.windows if w.length == length), math.nan)


def score_video(
    name: str, frames: Iterable[tuple[np.ndarray, np.ndarray]], num_classes: int, sparse: bool = False
) -> VideoScore:
    """Scores a video from its (label u8[H,W], prediction u8[H,W]) in order, one at a time; ``sparse`` where these are
    some of its frames only."""
    confusion, consistency, count = Confusion.empty(num_classes), VideoConsistency.empty(), 0
    for label, prediction in frames:
        confusion = confusion.update(label, prediction)
        if not sparse:
            consistency = consistency.update(label, prediction)
        count += 1
    return VideoScore(name, count, confusion, () if sparse else consistency.windows)


@dataclasses.dataclass(frozen=True)
class Figures:
    """The figures of a set of videos, as shares of 1; nan where nothing was there to measure.

    Attributes:
      videos, frames: how many were counted.
      left_out: videos that were too short to be counted.
      miou, weighted_iou, pixel_accuracy, class_accuracy: of one confusion matrix over all counted videos.
      vc8, vc16: released script: the mean over all windows of all counted videos, each video's last window left out.
      vc8_paper, vc16_paper: Eq. 9: every window, the mean per video, then over videos of any length.
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

    def consistency(self, length: int) -> float:
        """VC_length as in the released script: the mean over all windows of all videos, the last of each left out."""
        windows = [w for v in self.videos for w in v.windows if w.length == length]
        count = sum(w.count for w in windows)
        return math.fsum(w.ratios for w in windows) / count if count else math.nan

    def paper_consistency(self, length: int) -> float:
        """VC_length as in Eq. 9: every window, the mean per video, then over the videos that have a window."""
        means = (v.consistency(length, with_last=True) for v in self.videos)
        return _mean(x for x in means if not math.isnan(x))

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
        )
