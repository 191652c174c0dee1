"""Pixels by label and prediction near the boundaries of the classes, and Boundary IoU."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float64, Shaped

from cffm_jax.metrics import kernels
from cffm_jax.metrics.confusion import MOST, Confusion, as_pair, flat, read_only, require_counted
from cffm_jax.metrics.metric import Metric, Statistic, mean

_SHARE = 0.02
"""Width of the band, as a share of the frame's diagonal (Boundary IoU, CVPR 2021, section 5)."""


def boundary_width(height: int, width: int) -> int:
    """Pixels of the band along a boundary: 2 % of the frame's diagonal, at least 1."""
    return max(1, round(_SHARE * math.hypot(height, width)))


def boundary_confusion(
    label: Shaped[np.ndarray, "_ _"], prediction: Shaped[np.ndarray, "_ _"], num_classes: int
) -> Confusion:
    """A frame's pixels near boundaries; their IoU is Boundary IoU (Cheng et al., CVPR 2021, Eq. 2).

    A class's band is the part of it at most ``boundary_width`` pixels (as a square's radius) from
    another class, an ignored pixel or the frame's edge. What is outside its own band counts as the
    further class K, in the label and the prediction each: the IoU of class k is then that of its
    two bands, and class K's means nothing. The matrix has K + 1 classes.
    """
    label, prediction = as_pair(label, prediction)
    counts = Confusion.empty(num_classes + 1).counts
    if label.size:
        width = boundary_width(*label.shape)
        pair = [flat(kernels.bands(read_only(x), width, np.uint8(num_classes))) for x in (label, prediction)]
        require_counted(kernels.add_pairs(*pair, counts, MOST), label, prediction, num_classes)
    return Confusion(counts)


def _add(counts: Confusion, labels: np.ndarray, predictions: np.ndarray) -> Confusion:
    pairs = zip(labels, predictions, strict=True)
    return Confusion.total([counts, *(boundary_confusion(*pair, len(counts.counts) - 1) for pair in pairs)])


def boundary_ious(counts: Confusion) -> Float64[np.ndarray, " K"]:
    """Boundary IoU by class, of `boundary_confusion`; nan where it does not occur in the labels."""
    return counts.ious()[:-1]


BOUNDARY = Statistic("boundary", lambda num_classes: Confusion.empty(num_classes + 1), _add, Confusion.total)
BOUNDARY_IOU = Metric(
    "boundary_iou",
    "boundary IoU",
    "IoU of the bands along the classes' boundaries",
    'Cheng et al., "Boundary IoU" (CVPR 2021): IoU of the bands along the boundaries of the classes alone. The band of '
    "a class is the part of it within d pixels (the radius of a square) of another class, an ignored pixel or the "
    "frame's edge; d is 2 % of the diagonal, 20 pixels for 480x853. One matrix over all frames, mean over the classes "
    "that occur",
    BOUNDARY,
    lambda counts: mean(boundary_ious(counts).tolist()),
    in_papers=False,
    per_class=("boundary_iou", boundary_ious),
)
