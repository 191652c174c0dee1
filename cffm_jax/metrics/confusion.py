"""Pixels by label and prediction: of whole frames, and near the boundaries of the classes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np

from cffm_jax.config import IGNORED_LABEL
from cffm_jax.metrics import kernels

_BOUNDARY_SHARE = 0.02
"""Width of the band along a boundary, as a share of the frame's diagonal (Boundary IoU, CVPR 2021, section 5)."""
_MOST = 2**31
"""Pixels that the kernels count together."""


def as_bytes(array: np.ndarray, what: str) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind not in "iub" or (array.size and (array.min() < 0 or array.max() > 255)):
        raise ValueError(f"{what} must be integers in 0..255, got {array.dtype}")
    return array.astype(np.uint8)


def flat(array: np.ndarray) -> np.ndarray:
    """Bytes u8[...] as u8[n], as `read_only`."""
    return read_only(array.reshape(-1))


def read_only(array: np.ndarray) -> np.ndarray:
    """The array in C order and not writeable, as the kernels take it: they are compiled for one kind."""
    array = np.ascontiguousarray(array).view()
    array.flags.writeable = False
    return array


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
        labels, predictions = _pair(labels, predictions)
        counts = self.counts.copy()
        added = kernels.add_pairs(flat(labels), flat(predictions), counts, _MOST)
        _check(added, labels, predictions, len(counts))
        return Confusion(counts)

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
        return mean(x for x in self.ious().tolist() if not math.isnan(x))

    def class_accuracy(self) -> float:
        """Mean accuracy over the classes that occur in the labels; nan without any."""
        return mean(x for x in self.accuracies().tolist() if not math.isnan(x))

    def weighted_iou(self) -> float:
        """IoU weighted by how often each class occurs in the labels; nan without any."""
        pixels = self.pixels()
        total = int(pixels.sum())
        return float(np.nansum(self.ious() * pixels) / total) if total else math.nan

    def pixel_accuracy(self) -> float:
        """Share of the labelled pixels that are predicted right; nan without any."""
        total = int(self.counts.sum())
        return float(np.trace(self.counts) / total) if total else math.nan


def _pair(labels: np.ndarray, predictions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as bytes. ValueError where the kernels would read what is not there."""
    labels, predictions = as_bytes(labels, "labels"), as_bytes(predictions, "predictions")
    if labels.shape != predictions.shape:
        raise ValueError(f"labels {labels.shape} and predictions {predictions.shape} differ in shape")
    return labels, predictions


def _check(counted: int, labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> None:
    """ValueError if not all pixels were counted, or ignored."""
    if counted != labels.size:
        wrong = "labels" if ((labels >= num_classes) & (labels != IGNORED_LABEL)).any() else "predictions"
        raise ValueError(f"{wrong} hold a value that is not in 0..{num_classes - 1}")


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def mean(values: Iterable[float]) -> float:
    """Mean, the same in any order of the values; nan of none."""
    values = list(values)
    return math.fsum(values) / len(values) if values else math.nan


def boundary_width(height: int, width: int) -> int:
    """Pixels of the band along a boundary: 2 % of the frame's diagonal, at least 1."""
    return max(1, round(_BOUNDARY_SHARE * math.hypot(height, width)))


def boundary_confusion(label: np.ndarray, prediction: np.ndarray, num_classes: int) -> Confusion:
    """A frame's pixels near the boundaries, whose IoU is Boundary IoU (Cheng et al., CVPR 2021, Eq. 2).

    A class's band is the part of it that lies at most ``boundary_width`` pixels (as a square's radius) from another
    class, an ignored pixel or the frame's edge. What is outside its own band counts as the further class K, in the
    label and in the prediction each: the IoU of class k is then that of its two bands, and class K's means nothing.

    Args:
      label: u8[H,W].
      prediction: u8[H,W].
      num_classes: K.

    Returns:
      A confusion matrix of K + 1 classes.
    """
    label, prediction = _pair(label, prediction)
    counts = Confusion.empty(num_classes + 1).counts
    if label.size:
        width = boundary_width(*label.shape)
        pair = [flat(kernels.bands(read_only(x), width, np.uint8(num_classes))) for x in (label, prediction)]
        _check(kernels.add_pairs(*pair, counts, _MOST), label, prediction, num_classes)
    return Confusion(counts)
