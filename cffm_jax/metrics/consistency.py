"""How steady the masks of a video are: all that needs more than one frame."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np

from cffm_jax.metrics import kernels
from cffm_jax.metrics.confusion import as_bytes, flat

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
        """Mean ratio, with the last window (Eq. 9) or without (released script); nan without any window."""
        last = with_last and not math.isnan(self.last)
        count = self.count + last
        return (self.ratios + (self.last if last else 0.0)) / count if count else math.nan


@dataclasses.dataclass(frozen=True, eq=False)
class VideoConsistency:
    """Steadiness of one video, fed frame by frame.

    A window of n frames that ends now is stable at a pixel whose label was the same n - 1 times as in the frame before.
    So all that is kept of earlier frames is how many times in a row that was so, until now.

    Attributes:
      windows: the finished windows, by length: stable pixels, and those whose prediction stayed the same too.
      right_windows: likewise: stable pixels with a class, and those that were predicted right in all frames.
      steady: pixels with a class, of all frames but the first, whose label is that of the frame before.
      changed: those of them whose prediction is not that of the frame before.
      frames: frames fed so far.
      pixels: stable and consistent pixels of the window of each length that ends at the latest frame; None while the
        video is shorter than the window.
      label, prediction: u8[H,W], the latest frame.
      ages: u8 or u32 [3,pixels], see `kernels.add_frames`.
    """

    windows: tuple[Windows, ...]
    right_windows: tuple[Windows, ...]
    steady: int = 0
    changed: int = 0
    frames: int = 0
    pixels: tuple[tuple[int, int] | None, ...] = ()
    label: np.ndarray | None = None
    prediction: np.ndarray | None = None
    ages: np.ndarray | None = None

    @classmethod
    def empty(cls, lengths: tuple[int, ...] = LENGTHS) -> VideoConsistency:
        if not lengths or min(lengths) < 1:
            raise ValueError(f"window lengths must be at least 1, got {lengths}")
        windows = tuple(Windows(n) for n in lengths)
        return cls(windows, windows, pixels=(None,) * len(lengths))

    def update(self, label: np.ndarray, prediction: np.ndarray) -> VideoConsistency:
        """Feeds the next frame: label u8[H,W], prediction u8[H,W]."""
        return self.extend(np.asarray(label)[None], np.asarray(prediction)[None])

    def extend(self, labels: np.ndarray, predictions: np.ndarray) -> VideoConsistency:
        """Feeds the next frames, u8[T,H,W] each; several together take less time."""
        labels, predictions = as_bytes(labels, "labels"), as_bytes(predictions, "predictions")
        if labels.shape != predictions.shape or (self.frames and labels.shape[1:] != self.label.shape):
            shapes = [x.shape for x in (self.label, labels, predictions) if x is not None]
            raise ValueError(f"labels and predictions of a video must keep one shape, got {shapes}")
        if not len(labels):
            return self
        lengths = [w.length for w in self.windows]
        ages, last = self.ages, (self.label, self.prediction)
        if not self.frames:
            ages = kernels.start_ages(labels[0].size, max(lengths))
            last = (~labels[0], predictions[0])  # No label is that of a frame before.
        chunk = [flat(x).reshape(len(x), -1) for x in (labels, predictions)]
        ages, found, kept = kernels.add_frames(*chunk, *map(flat, last), ages, np.array(lengths, ages.dtype))
        # By window: stable, consistent, stable with a class, right.
        ended = [found[max(w.length - self.frames - 1, 0) :, i].tolist() for i, w in enumerate(self.windows)]
        pixels = tuple(tuple(counts[-1][:2]) if counts else None for counts in ended)
        windows = tuple(w.extend(c[:2] for c in counts) for w, counts in zip(self.windows, ended))
        right_windows = tuple(w.extend(c[2:] for c in counts) for w, counts in zip(self.right_windows, ended))
        steady, changed = kept.sum(0).tolist()
        return VideoConsistency(
            windows, right_windows, self.steady + steady, self.changed + changed, self.frames + len(labels), pixels,
            # Copies: the caller may reuse its frame buffers.
            labels[-1].copy(), predictions[-1].copy(), ages,
        )  # fmt: skip
