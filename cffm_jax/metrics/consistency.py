"""How steady the masks of a video are: all that needs more than one frame."""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np

from cffm_jax.config import IGNORED_LABEL
from cffm_jax.metrics.confusion import as_bytes

LENGTHS = (8, 16)
"""Window lengths n of the published VC_n."""


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
    """Steadiness of one video, fed frame by frame.

    A window of n frames that ends now is stable at a pixel whose label has stayed the same for at least n frames. So
    all that is kept of a pixel is for how long its label, label and prediction, and a right prediction of the same
    label have stayed.

    Attributes:
      windows: the finished windows, by length: stable pixels, and those whose prediction stayed the same too.
      right_windows: likewise: stable pixels with a class, and those that were predicted right in all frames.
      steady: pixels with a class, of all frames but the first, whose label is that of the frame before.
      changed: those of them whose prediction is not that of the frame before.
      frames: frames fed so far.
      pixels: stable and consistent pixels of the window of each length that ends at the latest frame; None while the
        video is shorter than the window.
    """

    windows: tuple[Windows, ...]
    right_windows: tuple[Windows, ...]
    steady: int = 0
    changed: int = 0
    frames: int = 0
    pixels: tuple[tuple[int, int] | None, ...] = ()
    label: np.ndarray | None = None
    prediction: np.ndarray | None = None
    label_run: np.ndarray | None = None
    both_run: np.ndarray | None = None
    right_run: np.ndarray | None = None

    @classmethod
    def empty(cls, lengths: tuple[int, ...] = LENGTHS) -> VideoConsistency:
        if not lengths or min(lengths) < 1 or max(lengths) > 254:
            raise ValueError(f"window lengths must be in 1..254, got {lengths}")
        windows = tuple(Windows(n) for n in lengths)
        return cls(windows, windows, pixels=(None,) * len(lengths))

    def update(self, label: np.ndarray, prediction: np.ndarray) -> VideoConsistency:
        """Feeds the next frame: label u8[H,W], prediction u8[H,W]."""
        label, prediction = as_bytes(label, "label"), as_bytes(prediction, "prediction")
        if label.shape != prediction.shape or (self.frames and label.shape != self.label.shape):
            shapes = [x.shape for x in (self.label, label, prediction) if x is not None]
            raise ValueError(f"label and prediction of a video must keep one shape, got {shapes}")
        known = label != IGNORED_LABEL
        right = (label == prediction) & known
        steady, changed = self.steady, self.changed
        if self.frames:
            same_label, same_prediction = label == self.label, prediction == self.prediction
            label_run = _lengthen(self.label_run, same_label)
            both_run = _lengthen(self.both_run, same_label & same_prediction)
            right_run = _lengthen(self.right_run, same_label)
            same_label &= known
            steady += int(np.count_nonzero(same_label))
            changed += int(np.count_nonzero(same_label > same_prediction))
        else:
            label_run = both_run = right_run = np.ones(label.shape, np.uint8)
        right_run = right_run * right
        frames = self.frames + 1

        def counts(length: int, run: np.ndarray, counted: np.ndarray | None = None) -> tuple[int, int]:
            stable = label_run >= length
            stable = stable if counted is None else stable & counted
            return int(np.count_nonzero(stable)), int(np.count_nonzero(run >= length))

        lengths = [w.length if frames >= w.length else None for w in self.windows]
        pixels = tuple(n and counts(n, both_run) for n in lengths)
        rights = tuple(n and counts(n, right_run, known) for n in lengths)
        return VideoConsistency(
            _next(self.windows, pixels), _next(self.right_windows, rights), steady, changed, frames, pixels,
            # Copies: the caller may reuse its frame buffers.
            label.copy(), prediction.copy(), label_run, both_run, right_run,
        )  # fmt: skip


def _next(windows: tuple[Windows, ...], pixels: tuple[tuple[int, int] | None, ...]) -> tuple[Windows, ...]:
    return tuple(w if p is None else w.update(*p) for w, p in zip(windows, pixels, strict=True))


def _lengthen(run: np.ndarray, same: np.ndarray) -> np.ndarray:
    """run u8[H,W] + 1 where same, else 1; never above 255, which is more than any window has frames."""
    return cv2.add(run * same, 1)
