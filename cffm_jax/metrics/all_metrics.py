"""All metrics that an evaluation computes, in the order in which they are printed and written."""

from __future__ import annotations

from cffm_jax.metrics import boundary, confusion, consistency
from cffm_jax.metrics.metric import Metric

METRICS: tuple[Metric, ...] = (
    *confusion.METRICS,
    *consistency.VIDEO_CONSISTENCY,
    boundary.BOUNDARY_IOU,
    *consistency.CORRECT_CONSISTENCY,
    consistency.FLICKER,
)
"""A new metric is an object here: its JSON keys, columns and part of the report follow from it."""
