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
"""In the order of the tables. JSON keys, columns and parts of the report follow from this list."""
