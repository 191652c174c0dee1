"""Frames for evaluation: resized to fit a box, then to sides that the model takes."""

from __future__ import annotations

import numpy as np

from cffm_jax.channels import COLOURS, Channels
from cffm_jax.data import augment, decode
from cffm_jax.data.image_files import MAX_PIXELS, FileName
from cffm_jax.errors import InputError

_MULTIPLE = 32
"""Sides of evaluated frames are multiples of the encoder's coarsest stride, unless the model takes
any (``Method.input_multiple``)."""


def evaluation_size(height: int, width: int, box: tuple[int, int], multiple: int = _MULTIPLE) -> tuple[int, int]:
    """Evaluated size (h, w): fitted to the box, then each side up to a multiple.

    InputError: that is more than the pixels that a frame's file may have.
    """
    h, w = (-(-side // multiple) * multiple for side in augment.fitted_size(height, width, box))
    if h * w > MAX_PIXELS:
        problem = f"makes frames of {h}x{w} (height x width), more than the {MAX_PIXELS} pixels allowed"
        raise InputError(f"a frame size of {' '.join(map(str, box))}", problem, "give a smaller one")
    return h, w


def checked_frame(number: int, frame: np.ndarray, channels: Channels) -> np.ndarray:
    """A frame of a stream as an array. InputError unless it is u8[H,W,3] in RGB, or f32[H,W,K] of
    other channels."""
    frame = np.asarray(frame)
    if frame.ndim != 3 or frame.shape[-1] != len(channels) or frame.dtype != channels.dtype or not frame.size:
        wanted = "u8[H,W,3] in RGB" if channels.coloured else f"f32[H,W,{len(channels)}] of {', '.join(channels.names)}"
        raise InputError(f"frame {number}", f"is {frame.dtype}{list(frame.shape)}", f"give frames {wanted}")
    return frame


def load_evaluation_frame(
    path: FileName, box: tuple[int, int], channels: Channels = COLOURS, multiple: int = _MULTIPLE
) -> tuple[np.ndarray, tuple[int, int]]:
    """Reads a frame and resizes it for evaluation, see `fit_frame`.

    Args:
      path: image file.
      box: two sides to fit, (0, 0) for its own; see `augment.fitted_size`.
      channels: that it has.
      multiple: of the sides, see `evaluation_size`.

    Returns:
      The frame u8[h,w,3] with (h, w) of `evaluation_size`, and its original (height, width).

    Raises:
      InputError: the file cannot be used.
    """
    frame = decode.read_frame(path, channels)
    return fit_frame(frame, box, multiple), frame.shape[:2]


def fit_frame(frame: np.ndarray, box: tuple[int, int], multiple: int = _MULTIPLE) -> np.ndarray:
    """Resizes a frame u8[H,W,3] or f32[H,W,K] bilinearly: first to fit the box, then up to
    multiples."""
    h, w = frame.shape[:2]
    for size in (augment.fitted_size(h, w, box), evaluation_size(h, w, box, multiple)):
        if frame.shape[:2] != size:
            frame = augment.resize(frame, size)
    return frame
