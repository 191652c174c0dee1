"""How steady the masks of a video are: all that needs more than one frame."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from cffm_jax.config import IGNORED_LABEL
from cffm_jax.metrics.confusion import as_bytes

_Maps = tuple[tuple[np.ndarray, ...], ...]
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

    A window of n frames that ends now is stable at a pixel whose label was the same n - 1 times as in the frame before.
    So what is kept of a frame are maps of one bit a pixel, and a window is the AND of two that are there already.

    Attributes:
      windows: the finished windows, by length: stable pixels, and those whose prediction stayed the same too.
      right_windows: likewise: stable pixels with a class, and those that were predicted right in all frames.
      steady: pixels with a class, of all frames but the first, whose label is that of the frame before.
      changed: those of them whose prediction is not that of the frame before.
      frames: frames fed so far.
      pixels: stable and consistent pixels of the window of each length that ends at the latest frame; None while the
        video is shorter than the window.
      label, prediction: u8[H,W], the latest frame.
      same_label: where the label is that of the frame before, as of ``_extended``.
      same: likewise: label and prediction.
      right: likewise: where the prediction is the label.
    """

    windows: tuple[Windows, ...]
    right_windows: tuple[Windows, ...]
    steady: int = 0
    changed: int = 0
    frames: int = 0
    pixels: tuple[tuple[int, int] | None, ...] = ()
    label: np.ndarray | None = None
    prediction: np.ndarray | None = None
    same_label: _Maps = ()
    same: _Maps = ()
    right: _Maps = ()

    @classmethod
    def empty(cls, lengths: tuple[int, ...] = LENGTHS) -> VideoConsistency:
        if not lengths or min(lengths) < 1:
            raise ValueError(f"window lengths must be at least 1, got {lengths}")
        windows = tuple(Windows(n) for n in lengths)
        return cls(windows, windows, pixels=(None,) * len(lengths))

    def update(self, label: np.ndarray, prediction: np.ndarray) -> VideoConsistency:
        """Feeds the next frame: label u8[H,W], prediction u8[H,W]."""
        label, prediction = as_bytes(label, "label"), as_bytes(prediction, "prediction")
        if label.shape != prediction.shape or (self.frames and label.shape != self.label.shape):
            shapes = [x.shape for x in (self.label, label, prediction) if x is not None]
            raise ValueError(f"label and prediction of a video must keep one shape, got {shapes}")
        known = _packed(label != IGNORED_LABEL)
        longest = max(w.length for w in self.windows)
        right = _extended(self.right, _packed(label == prediction) & known, longest)
        same_label, same, steady, changed = self.same_label, self.same, self.steady, self.changed
        if self.frames:
            kept, predicted = _packed(label == self.label), _packed(prediction == self.prediction)
            both = kept & predicted
            same_label, same = _extended(same_label, kept, longest), _extended(same, both, longest)
            labelled = _count(kept & known)
            steady, changed = steady + labelled, changed + labelled - _count(both & known)
        frames = self.frames + 1
        counted = {}
        for n in {w.length for w in self.windows if w.length <= frames}:
            all_right = _all_of(right, n)
            if n == 1:
                counted[n] = (label.size, label.size), (_count(known), _count(all_right))
                continue
            stable = _all_of(same_label, n - 1)
            consistent = _all_of(same, n - 1)
            counted[n] = (_count(stable), _count(consistent)), (_count(stable & known), _count(stable & all_right))
        found = [counted.get(w.length, (None, None)) for w in self.windows]
        pixels, rights = (tuple(pair[i] for pair in found) for i in range(2))
        return VideoConsistency(
            _next(self.windows, pixels), _next(self.right_windows, rights), steady, changed, frames, pixels,
            # Copies: the caller may reuse its frame buffers.
            label.copy(), prediction.copy(), same_label, same, right,
        )  # fmt: skip


def _next(windows: tuple[Windows, ...], pixels: Sequence[tuple[int, int] | None]) -> tuple[Windows, ...]:
    return tuple(w if p is None else w.update(*p) for w, p in zip(windows, pixels, strict=True))


def _packed(where: np.ndarray) -> np.ndarray:
    """bool[H,W] as u64[ceil(H W / 64)], a bit a pixel; 0 in what is left over."""
    bits = np.packbits(where)
    padded = np.zeros(-(-len(bits) // 8) * 8, np.uint8)
    padded[: len(bits)] = bits
    return padded.view(np.uint64)


def _count(bits: np.ndarray) -> int:
    """Pixels of a packed map."""
    return int(np.bitwise_count(bits).sum(dtype=np.int64))


def _extended(maps: _Maps, new: np.ndarray, longest: int) -> _Maps:
    """With a further frame: maps[k][i] is set where those of the 2**k frames up to i before the latest all are."""
    levels = []
    for k in range(longest.bit_length()):
        levels.append((new, *(maps[k] if k < len(maps) else ()))[: min(2**k, longest - 2**k) + 1])
        if len(levels[k]) <= 2**k:
            break
        new = levels[k][0] & levels[k][2**k]
    return tuple(levels)


def _all_of(maps: _Maps, count: int) -> np.ndarray:
    """Where the maps of the latest ``count`` frames, at least one, are all set."""
    k = count.bit_length() - 1
    return maps[k][0] & maps[k][count - 2**k]
