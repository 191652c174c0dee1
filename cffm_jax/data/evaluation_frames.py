"""Frames for evaluation: resized to fit a box, then to sides of multiples of 32."""

from __future__ import annotations

import numpy as np

from cffm_jax.channels import COLOURS, Channels
from cffm_jax.data import augment, decode
from cffm_jax.data.image_files import MAX_PIXELS, FileName
from cffm_jax.errors import InputError

_MULTIPLE = 32
"""Sides of evaluated frames are multiples of the encoder's coarsest stride."""


def evaluation_size(height: int, width: int, box: tuple[int, int]) -> tuple[int, int]:
    """Evaluated size (h, w): fitted to the box, then each side up to a multiple of 32.

    InputError: that is more than the pixels that a frame's file may have.
    """
    h, w = (-(-side // _MULTIPLE) * _MULTIPLE for side in augment.fitted_size(height, width, box))
    if h * w > MAX_PIXELS:
        problem = f"makes frames of {h}x{w} (height x width), more than the {MAX_PIXELS} pixels allowed"
        raise InputError(f"a frame size of {' '.join(map(str, box))}", problem, "give a smaller one")
    return h, w


def load_evaluation_frame(
    path: FileName, box: tuple[int, int], channels: Channels = COLOURS
) -> tuple[np.ndarray, tuple[int, int]]:
    """Reads a frame and resizes it for evaluation, see `fit_frame`.

    Args:
      path: image file.
      box: two sides to fit, (0, 0) for its own; see `augment.fitted_size`.
      channels: that it has.

    Returns:
      The frame u8[h,w,3] with (h, w) of `evaluation_size`, and its original (height, width).

    Raises:
      InputError: the file cannot be used.
    """
    frame = decode.read_frame(path, channels)
    return fit_frame(frame, box), frame.shape[:2]


def fit_frame(frame: np.ndarray, box: tuple[int, int]) -> np.ndarray:
    """Resizes a frame u8[H,W,3] or f32[H,W,K] bilinearly: first to fit the box, then up to
    multiples of 32."""
    original = frame.shape[:2]
    for size in (augment.fitted_size(*original, box=box), evaluation_size(*original, box=box)):
        if frame.shape[:2] != size:
            frame = augment.resize(frame, size)
    return frame
