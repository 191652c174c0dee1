"""Colours of classes."""

from __future__ import annotations

import functools

import cv2
import numpy as np

from cffm_jax.config import IGNORED_LABEL


def colour_table(colours: np.ndarray) -> np.ndarray:
    """Fills the colours u8[K,3] of K classes up to u8[256,3], with black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(colours)] = colours
    return table


_FIRST_COLOUR = (55.0, 0.0, -40.0)
"""Where the spread starts in CIELAB: a quiet blue."""


@functools.cache
def _distinct_colours() -> np.ndarray:
    """u8[255,3]: each colour is that of a 17x17x17 RGB grid farthest from those before in CIELAB,
    which follows the eye; not very dark or light, and muted, so that masks do not glare."""
    levels = np.linspace(0, 255, 17).round()
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    points = cv2.cvtColor((grid[None] / 255).astype(np.float32), cv2.COLOR_RGB2LAB)[0].astype(float)
    lightness, chroma = points[:, 0], np.hypot(points[:, 1], points[:, 2])
    usable = (lightness > 25) & (lightness < 90) & (chroma < 65)
    # Rounded, so that the last bits of another processor change no choice.
    grid, points = grid[usable], points[usable].round(2)
    distance = -((points - _FIRST_COLOUR) ** 2).sum(axis=1)
    colours = np.empty((IGNORED_LABEL, 3), np.uint8)
    for i in range(len(colours)):
        farthest = int(distance.argmax())
        colours[i] = grid[farthest]
        reach = ((points - points[farthest]) ** 2).sum(axis=1)
        distance = np.minimum(distance, reach) if i else reach
    return colours


def palette(num_classes: int) -> np.ndarray:
    """Colours to draw label maps with.

    Returns:
      u8[256,3], RGB: distinct colours for 0..num_classes-1, black for the rest, ``IGNORED_LABEL``
      among them. A class keeps its colour whatever ``num_classes`` is.

    Raises:
      ValueError: ``num_classes`` is outside 1..255.
    """
    if not 1 <= num_classes <= IGNORED_LABEL:
        raise ValueError(f"num_classes must be in 1..{IGNORED_LABEL}, not {num_classes}")
    return colour_table(_distinct_colours()[:num_classes])
