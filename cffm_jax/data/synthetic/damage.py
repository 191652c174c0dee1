"""What damages the built-in videos' frames: patches that hide the scene, blur, flicker, noise."""

from __future__ import annotations

import math

import cv2
import numpy as np

from cffm_jax.data.synthetic.sprites import noise


def elsewhere(rng: np.random.Generator, labels: np.ndarray, row: int, column: int) -> tuple[int, int]:
    """A random pixel of another class than the given pixel's, where a few draws find one."""
    for _ in range(8):
        other = int(rng.integers(labels.shape[0])), int(rng.integers(labels.shape[1]))
        if labels[other] != labels[row, column]:
            break
    return other


def patch(
    rng: np.random.Generator, colours: np.ndarray, labels: np.ndarray, tiles: dict[int, np.ndarray], unit: float
) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
    """A region of a frame and what hides it: mostly another part of the scene, to look like one.

    Returns:
      region (rows, columns); how much it is hidden, f32[h,w] in 0..1; colours instead, f32[h,w,3].
    """
    radius = rng.uniform(8, 19) * unit
    height = min(round(2 * radius * rng.uniform(0.7, 1.1)), labels.shape[0])
    width = min(round(2 * radius * rng.uniform(0.9, 1.5)), labels.shape[1])

    def around(row: int, column: int) -> tuple[slice, slice]:
        top = min(max(row - height // 2, 0), labels.shape[0] - height)
        left = min(max(column - width // 2, 0), labels.shape[1] - width)
        return slice(top, top + height), slice(left, left + width)

    centre = int(rng.integers(labels.shape[0])), int(rng.integers(labels.shape[1]))
    region, other = around(*centre), elsewhere(rng, labels, *centre)
    kind = rng.choice(("copy", "texture", "smear", "blocks"), p=(0.45, 0.25, 0.12, 0.18))
    fill = colours[around(*other)].astype(np.float32)
    if kind == "texture" and labels[other] in tiles:
        tile = tiles[labels[other]]
        row, column = rng.integers(tile.shape[0] - height + 1), rng.integers(tile.shape[1] - width + 1)
        fill = tile[row : row + height, column : column + width]
    elif kind == "smear":
        spread = cv2.blur(colours[region], (max(3, width), max(3, height // 4)), borderType=cv2.BORDER_REFLECT)
        fill = 0.6 * spread.astype(np.float32) + 0.4 * rng.uniform(60, 200)
    elif rng.random() < 0.5:
        fill = fill[:, ::-1]

    if kind == "blocks":
        side = 8 * unit
        lost = rng.random((math.ceil(height / side), math.ceil(width / side)), np.float32) < 0.8
        cover = cv2.resize(lost.astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST)
    else:
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
        inside = np.hypot(x, y) + 0.7 * (noise(rng, (height, width), (radius * 0.7, radius * 0.7), 2) - 0.5) < 0.85
        cover = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 0.5 * unit)
    return region, cover, fill


def damage(
    rng: np.random.Generator, colours: np.ndarray, labels: np.ndarray, tiles: dict[int, np.ndarray], unit: float
) -> tuple[np.ndarray, np.ndarray]:
    """A frame as a poor camera and a poor connection deliver it.

    Args:
      colours: the frame, u8[H,W,3].
      labels: its mask's values, u8[H,W].
      tiles: mask value -> texture of that class, f32[h,w,3] at least as large as the frame.
      unit: H/96.

    Returns:
      the damaged frame u8[H,W,3], and where patches hide the scene, bool[H,W].
    """
    frame = colours.astype(np.float32)
    hidden = np.zeros(colours.shape[:2], bool)
    share = rng.uniform(0.12, 0.3)
    while hidden.mean() < share:
        region, cover, fill = patch(rng, colours, labels, tiles, unit)
        frame[region] += (fill - frame[region]) * cover[..., None]
        hidden[region] |= cover > 0.5
    if rng.random() < 0.4:
        if rng.random() < 0.5:
            frame = cv2.GaussianBlur(frame, (0, 0), rng.uniform(0.6, 1.8) * unit)
        else:
            length = max(2, round(rng.uniform(3, 8) * unit))
            streak = np.eye(length) if rng.random() < 0.3 else np.ones((1, length))
            frame = cv2.filter2D(frame, -1, streak / streak.sum(), borderType=cv2.BORDER_REFLECT)
    frame *= np.exp(rng.normal(0, 0.14) + rng.normal(0, 0.05, 3)).astype(np.float32)
    grain = rng.standard_normal(frame.shape, np.float32)
    frame += grain * np.float32(rng.uniform(2, 12))
    return np.clip(frame, 0, 255).astype(np.uint8), hidden
