"""Pixels by label and prediction: of whole frames, and near the boundaries of the classes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import cv2
import numpy as np

from cffm_jax.config import IGNORED_LABEL

_BOUNDARY_SHARE = 0.02
"""Width of the band along a boundary, as a share of the frame's diagonal (Boundary IoU, CVPR 2021, section 5)."""
_EXACT = 2**24
"""OpenCV counts in float32, which is exact up to here."""


def as_bytes(array: np.ndarray, what: str) -> np.ndarray:
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
        labels, predictions = as_bytes(labels, "labels"), as_bytes(predictions, "predictions")
        if labels.shape != predictions.shape:
            raise ValueError(f"labels {labels.shape} and predictions {predictions.shape} differ in shape")
        # No mask is needed: rows and columns beyond the classes are cut off after counting.
        table = _joint_counts(labels, predictions)
        k = len(self.counts)
        counted = table[:k, :k].astype(np.int64)
        if counted.sum() + table[IGNORED_LABEL].sum(dtype=np.int64) != labels.size:
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


def _joint_counts(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """[256,256]: how often each pair of bytes occurs at the same place of two arrays u8[...]; whole numbers."""
    pair = [_mixed(np.ascontiguousarray(array).reshape(-1)) for array in (labels, predictions)]

    def counts(start: int) -> np.ndarray:
        part = [array[:, start : start + _EXACT] for array in pair]
        return cv2.calcHist(part, [0, 1], None, [256, 256], [0, 256, 0, 256])

    if 0 < labels.size <= _EXACT:
        return counts(0)
    parts = (counts(start).astype(np.int64) for start in range(0, labels.size, _EXACT))
    return sum(parts, np.zeros((256, 256), np.int64))


def _mixed(pixels: np.ndarray) -> np.ndarray:
    """The same pixels u8[n] as [1, n] in an order in which neighbours are from far apart.

    Pixels of one class in a row are counted in one place of memory, where each waits for the one before.
    """
    quarter = len(pixels) // 4
    if not quarter:
        return pixels[None]
    mixed = cv2.merge([pixels[None, i * quarter : (i + 1) * quarter] for i in range(4)]).reshape(1, -1)
    rest = pixels[None, 4 * quarter :]
    return np.concatenate([mixed, rest], 1) if rest.size else mixed


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
    width = boundary_width(*label.shape)
    banded = np.where(_in_band(label, width) | (label == IGNORED_LABEL), label, num_classes)
    return Confusion.empty(num_classes + 1).update(
        banded, np.where(_in_band(prediction, width), prediction, num_classes)
    )


def _in_band(classes: np.ndarray, width: int) -> np.ndarray:
    """bool[H,W]: whether a square of radius ``width`` around the pixel holds another class or leaves the frame."""
    classes = as_bytes(classes, "classes")
    height, length = classes.shape
    band = np.ones(classes.shape, bool)
    if min(height, length) > 2 * width:
        # A square holds one class if no two neighbours in it differ: no loop over classes. Rows are packed, as their
        # bits need not move.
        beside = np.packbits(classes[:, 1:] != classes[:, :-1], 1)
        below = np.packbits(classes[1:] != classes[:-1], 1)
        beside = np.unpackbits(_any_of_next(beside, 2 * width + 1), 1, length - 1)
        below = np.unpackbits(_any_of_next(below, 2 * width), 1, length)
        either = beside | below[:, 1:] | below[:, :-1]
        band[width:-width, width:-width] = _any_of_next(either.T, 2 * width).T
    return band


def _any_of_next(maps: np.ndarray, count: int) -> np.ndarray:
    """[N, ...] -> [N - count + 1, ...]: the OR of each with those after it, ``count`` in all."""
    done = 1
    while done < count:
        step = min(done, count - done)
        maps = maps[:-step] | maps[step:]
        done += step
    return maps
