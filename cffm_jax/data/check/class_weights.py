"""Weights of classes by how often they occur, for ``--loss.class-weights``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

Rule = Literal["median", "log"]


def class_weights(pixels: Sequence[int], rule: Rule) -> np.ndarray:
    """f64[K] for the classes' pixels; 0 for a class without any.

    "median": the median of the classes' shares of the labelled pixels over a class's own. "log":
    1 / ln(1.02 + share), which stays between 1.4 and 50 (ENet, section 5).
    """
    weights = np.zeros(len(pixels))
    there = np.asarray(pixels) > 0
    shares = np.asarray(pixels)[there] / max(1, sum(pixels))
    if there.any():
        weights[there] = 1 / np.log(1.02 + shares) if rule == "log" else np.median(shares) / shares
    return weights
