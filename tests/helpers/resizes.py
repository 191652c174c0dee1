"""Bilinear resizing from its definition, one output pixel at a time."""

import math

import numpy as np


def naive_matrix(size_in: int, size_out: int) -> np.ndarray:
    """f64[size_out, size_in] from the definition: one output pixel at a time."""
    matrix = np.zeros((size_out, size_in))
    for i in range(size_out):
        source = (i + 0.5) * size_in / size_out - 0.5
        source = min(max(source, 0.0), size_in - 1.0)
        low = math.floor(source)
        high = min(low + 1, size_in - 1)
        matrix[i, low] += 1 - (source - low)
        matrix[i, high] += source - low
    return matrix


def naive_resize(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[N, H, W, C] in float64."""
    down, right = naive_matrix(x.shape[1], size[0]), naive_matrix(x.shape[2], size[1])
    return np.einsum("uh,vw,nhwc->nuvc", down, right, np.asarray(x, np.float64))
