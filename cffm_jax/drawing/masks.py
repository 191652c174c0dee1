"""Masks as colours over their frames."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from cffm_jax.config import IGNORED_LABEL

INPUT, TRUTH = "input", "ground truth"
"""Labels of a sheet's first and last rows (a video's panels), the model's between, best last."""

ALPHA = 0.7
"""How much of a class's colour covers the frame."""

_BORDER = 255


def overlay(frame: np.ndarray, mask: np.ndarray, colours: np.ndarray, alpha: float = ALPHA) -> np.ndarray:
    """Lays a mask over its frame, with a border one pixel thin between classes.

    Args:
      frame: u8[H,W,3].
      mask: u8[H,W]; pixels of 255 show the frame as it is.
      colours: u8[256,3], as of `drawing.palette`.
      alpha: 0 shows the frame alone, 1 the classes' colours alone.

    Returns:
      u8[H,W,3].
    """
    border = np.zeros(mask.shape, bool)
    border[:, 1:] = mask[:, 1:] != mask[:, :-1]
    border[1:] |= mask[1:] != mask[:-1]
    paint = colours[mask].astype(np.float32)
    paint[border] = _BORDER
    mixed = np.rint(frame + np.float32(alpha) * (paint - frame)).astype(np.uint8)
    return np.where((mask != IGNORED_LABEL)[..., None], mixed, frame)


def shown_size(height: int, width: int, longest: int) -> tuple[int, int]:
    """Height and width of a shown frame: small ones doubled, large ones reduced to ``longest``."""
    factor = 2 if 2 * max(height, width) <= longest else min(1.0, longest / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def views(
    frame: np.ndarray, masks: Mapping[str, np.ndarray], colours: np.ndarray, longest: int
) -> dict[str, np.ndarray]:
    """The frame as ``INPUT`` and, by their labels, the masks laid over it, at `shown_size`."""
    height, width = shown_size(*frame.shape[:2], longest=longest)
    smaller = height < frame.shape[0]
    picture = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)

    def over(mask: np.ndarray) -> np.ndarray:
        return overlay(picture, cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST), colours)

    return {INPUT: picture, **{label: over(mask) for label, mask in masks.items()}}
