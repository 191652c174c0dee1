"""Consistency of a video's masks over time: the metrics that need more than one frame."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Shaped, UInt8

from cffm_jax.metrics import kernels
from cffm_jax.metrics.confusion import as_bytes, flat
from cffm_jax.metrics.metric import Metric, Statistic

LENGTHS = (8, 16)
"""Window lengths n of the published VC_n."""


@dataclasses.dataclass(frozen=True)
class Windows:
    """A video's windows of one length: sums of consistent / stable pixels, the last window apart.

    Attributes:
      length: n, frames of a window.
      ratios: sum of the ratios of all windows but the last.
      count: number of those windows; a window without stable pixels is none.
      last: ratio of the last window; nan without stable pixels or with fewer than n frames.
    """

    length: int
    ratios: float = 0.0
    count: int = 0
    last: float = math.nan

    def update(self, stable: int, consistent: int) -> Windows:
        """Adds the next window."""
        return self.extend([(stable, consistent)])

    def extend(self, pixels: Iterable[Sequence[int]]) -> Windows:
        """Adds the next windows, (stable, consistent) each."""
        ratios, count, last = self.ratios, self.count, self.last
        for stable, consistent in pixels:
            if not math.isnan(last):
                ratios, count = ratios + last, count + 1
            last = consistent / stable if stable else math.nan
        return Windows(self.length, ratios, count, last)

    def mean(self, with_last: bool) -> float:
        """Mean ratio, with the last window (Eq. 9) or without (released script); nan of none."""
        last = with_last and not math.isnan(self.last)
        count = self.count + last
        return (self.ratios + (self.last if last else 0.0)) / count if count else math.nan


@dataclasses.dataclass(frozen=True)
class Steadiness:
    """Sums of one video, or of several: windows that it has, and pixels that keep their class.

    Attributes:
      windows: finished windows by length: stable pixels, and those whose prediction stayed too.
      right_windows: likewise: stable pixels with a class, and those predicted right in all frames.
      steady: pixels with a class, but of the first frame, whose label is that of the frame before.
      changed: those of them whose prediction is not that of the frame before.
    """

    windows: tuple[Windows, ...]
    right_windows: tuple[Windows, ...]
    steady: int = 0
    changed: int = 0

    @classmethod
    def total(cls, parts: Sequence[Steadiness]) -> Steadiness:
        """The sums of several videos, with the windows counted without each video's last."""

        def joined(windows: Iterable[Windows]) -> Windows:
            windows = list(windows)
            return Windows(windows[0].length, math.fsum(w.ratios for w in windows), sum(w.count for w in windows))

        return cls(
            tuple(map(joined, zip(*(part.windows for part in parts)))),
            tuple(map(joined, zip(*(part.right_windows for part in parts)))),
            sum(part.steady for part in parts),
            sum(part.changed for part in parts),
        )

    def consistency(self, length: int, with_last: bool) -> float:
        """VC_length; nan without a window."""
        return next(w.mean(with_last) for w in self.windows if w.length == length)

    def right_consistency(self, length: int) -> float:
        """CC_length; nan without a window."""
        return next(w.mean(with_last=True) for w in self.right_windows if w.length == length)

    def flicker(self) -> float:
        """Share of the steady pixels whose prediction changes; nan without any."""
        return self.changed / self.steady if self.steady else math.nan


@dataclasses.dataclass(frozen=True, eq=False)
class VideoConsistency(Steadiness):
    """Steadiness of one video, fed frame by frame.

    A window of n frames that ends now is stable at a pixel whose label was the same n - 1 times as
    in the frame before. So all that is kept of earlier frames is how often in a row that was so.

    Attributes:
      frames: frames fed so far.
      pixels: stable and consistent pixels of the window of each length that ends at the latest
        frame; None while the video is shorter than the window.
      label, prediction: the latest frame.
      ages: u8 or u32 [3,pixels], see `kernels.add_frames`.
    """

    frames: int = 0
    pixels: tuple[tuple[int, int] | None, ...] = ()
    label: UInt8[np.ndarray, "H W"] | None = None
    prediction: UInt8[np.ndarray, "H W"] | None = None
    ages: np.ndarray | None = None

    @classmethod
    def empty(cls, lengths: tuple[int, ...] = LENGTHS) -> VideoConsistency:
        if not lengths or min(lengths) < 1:
            raise ValueError(f"window lengths must be at least 1, got {lengths}")
        windows = tuple(Windows(n) for n in lengths)
        return cls(windows, windows, pixels=(None,) * len(lengths))

    def finished(self) -> Steadiness:
        """The sums alone, without what further frames need."""
        return Steadiness(self.windows, self.right_windows, self.steady, self.changed)

    def update(self, label: Shaped[np.ndarray, "_ _"], prediction: Shaped[np.ndarray, "_ _"]) -> VideoConsistency:
        """Feeds the next frame."""
        return self.extend(np.asarray(label)[None], np.asarray(prediction)[None])

    def extend(self, labels: Shaped[np.ndarray, "_ _ _"], predictions: Shaped[np.ndarray, "_ _ _"]) -> VideoConsistency:
        """Feeds the next frames; several together take less time."""
        labels, predictions = as_bytes(labels, "labels"), as_bytes(predictions, "predictions")
        if labels.shape != predictions.shape or (self.label is not None and labels.shape[1:] != self.label.shape):
            shapes = [x.shape for x in (self.label, labels, predictions) if x is not None]
            raise ValueError(f"labels and predictions of a video must keep one shape, got {shapes}")
        if not len(labels):
            return self
        lengths = [w.length for w in self.windows]
        if self.label is None or self.prediction is None or self.ages is None:
            ages = kernels.start_ages(labels[0].size, max(lengths))
            last = (~labels[0], predictions[0])  # No label is that of a frame before.
        else:
            ages, last = self.ages, (self.label, self.prediction)
        chunk = [flat(x).reshape(len(x), -1) for x in (labels, predictions)]
        ages, counts, kept = kernels.add_frames(*chunk, *map(flat, last), ages, np.array(lengths, ages.dtype))
        # By window: stable, consistent, stable with a class, right.
        ended = [counts[max(w.length - self.frames - 1, 0) :, i].tolist() for i, w in enumerate(self.windows)]
        pixels = tuple(tuple(counts[-1][:2]) if counts else None for counts in ended)
        windows = tuple(w.extend(c[:2] for c in counts) for w, counts in zip(self.windows, ended))
        right_windows = tuple(w.extend(c[2:] for c in counts) for w, counts in zip(self.right_windows, ended))
        steady, changed = kept.sum(0).tolist()
        return VideoConsistency(
            windows, right_windows, self.steady + steady, self.changed + changed, self.frames + len(labels), pixels,
            # Copies: the caller may reuse its frame buffers.
            labels[-1].copy(), predictions[-1].copy(), ages,
        )  # fmt: skip


STEADINESS = Statistic(
    "steadiness",
    lambda _: VideoConsistency.empty(),
    VideoConsistency.extend,
    Steadiness.total,
    VideoConsistency.finished,
    whole_videos=True,
)
_RELEASED = (
    "of the pixels whose ground truth stays the same over a window of n frames (here an ignored label counts as a "
    "label), the share whose prediction stays the same; mean over all windows of all videos, as the released script "
    "does it: each video's last window is left out"
)
_EQUATION = "as the paper defines it: every window, the mean of each video, then over the videos, short ones too"
VIDEO_CONSISTENCY = (
    Metric(
        "vc8",
        "VC8",
        "video consistency: of the pixels whose label stays the same over 8 frames, those whose prediction does",
        _RELEASED,
        STEADINESS,
        lambda sums: sums.consistency(8, with_last=False),
        per_video="json",
    ),
    Metric(
        "vc16",
        "VC16",
        "over 16 frames; both as the released script counts",
        _RELEASED,
        STEADINESS,
        lambda sums: sums.consistency(16, with_last=False),
        per_video="json",
    ),
    Metric(
        "vc8_paper",
        "VC8 Eq. 9",
        "every window, the mean of each video, then of the videos",
        _EQUATION,
        STEADINESS,
        lambda sums: sums.consistency(8, with_last=True),
        mean_of_videos=True,
        short_videos=True,
        per_video="table",
    ),
    Metric(
        "vc16_paper",
        "VC16 Eq. 9",
        "over 16 frames",
        _EQUATION,
        STEADINESS,
        lambda sums: sums.consistency(16, with_last=True),
        mean_of_videos=True,
        short_videos=True,
        per_video="table",
    ),
)
_CORRECT = (
    "correct consistency: of the pixels that keep one class over a window of n frames, the share that is predicted "
    "right in all n; averaged as in Eq. 9. At most VC, and at most the accuracy, of the same pixels"
)
CORRECT_CONSISTENCY = (
    Metric(
        "cc8",
        "CC8",
        "of the pixels that keep one class over 8 frames, those that are right in all",
        _CORRECT,
        STEADINESS,
        lambda sums: sums.right_consistency(8),
        mean_of_videos=True,
        short_videos=True,
        in_papers=False,
        per_video="json",
    ),
    Metric(
        "cc16",
        "CC16",
        "over 16 frames",
        _CORRECT,
        STEADINESS,
        lambda sums: sums.right_consistency(16),
        mean_of_videos=True,
        short_videos=True,
        in_papers=False,
        per_video="json",
    ),
)
FLICKER = Metric(
    "flicker",
    "flicker",
    "of the pixels that keep their class, those whose prediction changes",
    "of the pixels whose class is that of the frame before, the share whose prediction is not; over all frames of all "
    "videos: 0 for masks that move with the ground truth",
    STEADINESS,
    Steadiness.flicker,
    in_papers=False,
    lower_is_better=True,
    per_video="json",
)
