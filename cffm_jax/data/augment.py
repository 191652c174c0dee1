"""Augments training clips (CFFM section 4.1: resizing, cropping, flipping, photometric distortion).

Each step is a function of arrays and a random generator. A clip is frames u8[T,H,W,3] in RGB and
the labels u8[L,H,W] of its last L frames, target last. Geometry is drawn once for a clip, so that
its frames stay aligned; colours are drawn anew for each frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from cffm_jax.channels import STD
from cffm_jax.config import IGNORED_LABEL, DataConfig

_HUES = 180
"""OpenCV's 8-bit HSV counts hue in steps of 2 degrees."""


def augment(
    frames: Sequence[np.ndarray], labels: Sequence[np.ndarray], data: DataConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Resizes, crops, flips, distorts and pads a clip.

    Args:
      frames: T x u8[H,W,3].
      labels: L x u8[H,W].
      data: the settings; the result has the size of `data.crop`.
      rng: source of all draws.

    Returns:
      frames u8[T,h,w,3], labels u8[L,h,w], size i32[2], as of `pad`.
    """
    clip, masks = flip(*resize_and_crop(frames, labels, data, rng), data, rng)
    return pad(distort(clip, data, rng), masks, data)


def fitted_size(height: int, width: int, box: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the largest image of the same aspect that fits the box, turned or not.

    The long side is at most max(box), the short min(box); both rounded to pixels, at least 1. In a
    box (0, 0) it keeps its size.
    """
    if not any(box):
        return height, width
    factor = min(max(box) / max(height, width), min(box) / min(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def draw_size(height: int, width: int, data: DataConfig, rng: np.random.Generator) -> tuple[int, int]:
    """Height and width of a frame fitted to `data.frame_size` times a factor: one of `data.ratios`,
    or where there are none one uniform in `data.ratio`."""
    ratios = data.ratios
    ratio = ratios[int(rng.integers(len(ratios)))] if ratios else rng.uniform(*data.ratio)
    rows, columns = (max(1, int(side * ratio)) for side in data.frame_size)
    return fitted_size(height, width, (rows, columns))


def largest_share(labels: np.ndarray) -> float:
    """Share of the most frequent class among the labelled pixels; 0 where nothing is labelled."""
    # Counts in float32, exact up to 2**24 pixels; several times faster than np.bincount, which
    # widens labels first.
    counts = cv2.calcHist([labels], [0], None, [IGNORED_LABEL], [0, IGNORED_LABEL]).astype(np.int64)
    return float(counts.max() / max(1, counts.sum()))


def draw_window(labels: np.ndarray, data: DataConfig, rng: np.random.Generator) -> tuple[slice, slice]:
    """Draws the rows and columns of a crop of `data.crop`; a side shorter than that stays whole.

    The window is drawn again, at most `data.crop_tries` draws in all, while one class covers more
    than `data.max_class_share` of its labelled pixels. `labels` u8[H,W] are the target's, resized.
    """
    height, width = labels.shape
    h, w = min(height, data.crop[0]), min(width, data.crop[1])

    def draw() -> tuple[slice, slice]:
        top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        return slice(top, top + h), slice(left, left + w)

    window = draw()
    for _ in range(data.crop_tries - 1 if data.max_class_share < 1 else 0):
        if largest_share(labels[window]) <= data.max_class_share:
            break
        window = draw()
    return window


def resize_window(image: np.ndarray, size: tuple[int, int], window: tuple[slice, slice], mode: int) -> np.ndarray:
    """Bit for bit ``cv2.resize(image, size)[window]``; resizes nothing below or right of it.

    The factors and so the pixels stay those of the whole image; two source pixels beyond the window
    keep border replication out. What lies above and left stays: it fixes the sampling's phase.

    Args:
      image: u8[H,W], u8[H,W,3] or f32[H,W,K].
      size: height and width that the whole image is resized to.
      window: rows and columns of the result, in the resized image.
      mode: cv2.INTER_LINEAR or cv2.INTER_NEAREST.
    """
    factors = [after / before for after, before in zip(size, image.shape)]
    rows, columns = (math.ceil(part.stop / factor) + 2 for part, factor in zip(window, factors))
    resized = cv2.resize(image[:rows, :columns], None, fx=factors[1], fy=factors[0], interpolation=mode)
    return _like(image, resized)[window]


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image [H,W,K] of bytes or float32, resized bilinearly to a height and width."""
    return _like(image, cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR))


def _like(image: np.ndarray, resized: np.ndarray) -> np.ndarray:
    """What OpenCV made of an image, with the axis of a single channel, which it takes away."""
    return resized.reshape(*resized.shape[:2], *image.shape[2:])


def resize_and_crop(
    frames: Sequence[np.ndarray], labels: Sequence[np.ndarray], data: DataConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Resizes and crops a clip (frames bilinear, labels nearest): one size and window for all.

    See `draw_size` and `draw_window`. Frame by frame: all resized frames would not fit the caches.
    """
    height, width = labels[-1].shape
    size = draw_size(height, width, data, rng)
    target = cv2.resize(labels[-1], size[::-1], interpolation=cv2.INTER_NEAREST)
    window = draw_window(target, data, rng)
    h, w = (part.stop - part.start for part in window)
    cut_frames = np.empty((len(frames), h, w, *frames[0].shape[2:]), frames[0].dtype)
    cut_labels = np.empty((len(labels), h, w), np.uint8)
    for cut, frame in zip(cut_frames, frames, strict=True):
        cut[:] = resize_window(frame, size, window, cv2.INTER_LINEAR)
    cut_labels[-1] = target[window]
    for cut, label in zip(cut_labels[:-1], labels[:-1], strict=True):
        cut[:] = resize_window(label, size, window, cv2.INTER_NEAREST)
    return cut_frames, cut_labels


def flip(
    frames: np.ndarray, labels: np.ndarray, data: DataConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Mirrors the whole clip left to right with probability `data.flip`."""
    if rng.random() >= data.flip:
        return frames, labels
    return _mirror(frames), _mirror(labels)


def _mirror(images: np.ndarray) -> np.ndarray:
    # cv2 mirrors several times faster than a NumPy copy with a negative stride, now or later in the
    # batch.
    if images.dtype != np.uint8:
        return np.ascontiguousarray(images[:, :, ::-1])
    mirrored = np.empty(images.shape, np.uint8)
    for image, after in zip(images, mirrored):
        cv2.flip(image, 1, dst=after)
    return mirrored


class Distortion(NamedTuple):
    """Colour change of one frame; the defaults change nothing."""

    brightness: float = 0.0
    """Added to every channel, in grey levels."""
    contrast: float = 1.0
    """Factor of every channel."""
    contrast_last: bool = False
    """Contrast after saturation and hue rather than before."""
    saturation: float = 1.0
    """Factor of HSV's saturation."""
    hue: int = 0
    """Added to HSV's hue, in steps of 2 degrees."""


def draw_distortion(data: DataConfig, rng: np.random.Generator) -> Distortion:
    """Draws each part of a distortion with probability `data.distort`; a coin places contrast."""
    neutral = Distortion()
    return Distortion(
        rng.uniform(-data.brightness, data.brightness) if rng.random() < data.distort else neutral.brightness,
        rng.uniform(*data.contrast) if rng.random() < data.distort else neutral.contrast,
        bool(rng.integers(2)),
        rng.uniform(*data.saturation) if rng.random() < data.distort else neutral.saturation,
        int(rng.integers(-data.hue, data.hue, endpoint=True)) if rng.random() < data.distort else neutral.hue,
    )


def distort(frames: np.ndarray, data: DataConfig, rng: np.random.Generator) -> np.ndarray:
    """Distorts the colours of frames u8[T,h,w,3], with a draw for each frame.

    Frames f32[T,h,w,K] of other channels have a contrast, mean + (x - mean) * factor, and a
    brightness of as many standard deviations as RGB's grey levels are of ImageNet's mean one.
    """
    channels = data.frame_channels
    if not channels.coloured:
        mean, std = np.array(channels.mean, np.float32), np.array(channels.std, np.float32)
        draws = [draw_distortion(data, rng) for _ in frames]
        factors = np.array([draw.contrast for draw in draws], np.float32)[:, None, None, None]
        shifts = np.array([draw.brightness for draw in draws], np.float32)[:, None, None, None] / np.mean(STD)
        return (mean + (frames - mean) * factors + shifts * std).astype(np.float32)
    distorted = np.empty(frames.shape, np.uint8)
    for frame, out in zip(frames, distorted):
        distort_frame(frame, draw_distortion(data, rng), out)
    return distorted


def distort_frame(frame: np.ndarray, distortion: Distortion, out: np.ndarray | None = None) -> np.ndarray:
    """Brightness, then contrast, saturation and hue on a frame u8[h,w,3] in RGB.

    Brightness, contrast and saturation are x -> clip(x * factor + shift, 0, 255), cut to a whole
    number after each. Saturation and hue act on OpenCV's 8-bit HSV in one trip there and back, left
    out where nothing changes; hue wraps at 180. `out` u8[h,w,3] gets the result where given.
    """
    # Each step maps bytes to bytes: a table of 256 entries computes it exactly, and two steps in a
    # row are one table. A step that changes nothing is left out, and all write to one array: fresh
    # memory costs about as much as a table.
    out = np.empty(frame.shape, np.uint8) if out is None else out
    scaled = _linear_table(distortion.contrast, 0.0)
    changed = frame
    if distortion.brightness or (distortion.contrast != 1 and not distortion.contrast_last):
        shifted = _linear_table(1.0, distortion.brightness)
        changed = cv2.LUT(changed, shifted if distortion.contrast_last else scaled[shifted], dst=out)
    if distortion.saturation != 1 or distortion.hue:
        changed = _change_colours(changed, distortion, out)
    if distortion.contrast != 1 and distortion.contrast_last:
        changed = cv2.LUT(changed, scaled, dst=out)
    if changed is frame:
        out[:] = frame
    return out


def _change_colours(frame: np.ndarray, distortion: Distortion, out: np.ndarray) -> np.ndarray:
    """Changes saturation and hue, plane by plane: one table of three channels takes longer."""
    hue, saturation, value = cv2.split(cv2.cvtColor(frame, cv2.COLOR_RGB2HSV))
    if distortion.hue:
        cv2.LUT(hue, ((np.arange(256) + distortion.hue) % _HUES).astype(np.uint8), dst=hue)
    if distortion.saturation != 1:
        cv2.LUT(saturation, _linear_table(distortion.saturation, 0.0), dst=saturation)
    return cv2.cvtColor(cv2.merge((hue, saturation, value)), cv2.COLOR_HSV2RGB, dst=out)


def _linear_table(factor: float, shift: float) -> np.ndarray:
    """Table u8[256] of x -> clip(x * factor + shift, 0, 255), cut to a whole number, in float32."""
    values = np.arange(256, dtype=np.float32) * np.float32(factor) + np.float32(shift)
    return np.clip(values, 0, 255).astype(np.uint8)


def pad(frames: np.ndarray, labels: np.ndarray, data: DataConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pads a clip to the size of `data.crop`: frames with 0, labels with 255.

    Returns:
      frames u8[T,h,w,3], labels u8[L,h,w] and size i32[2], height and width of what the network is
      to take for the frame, from the top left. By `data.padding` "end" it is the frame without
      padding: only the model normalises frames, so it is the model's input that must be zero there.
      "Around" the frame it is all, and of an odd number of rows or columns one more lies after it.
    """
    size = np.array(labels.shape[1:], np.int32)
    missing = np.array(data.crop) - size
    if missing.any():
        before = missing // 2 if data.padding == "around" else np.zeros(2, int)
        border = ((0, 0), *zip(before.tolist(), (missing - before).tolist()))
        frames = np.pad(frames, (*border, (0, 0)))
        labels = np.pad(labels, border, constant_values=IGNORED_LABEL)
    return frames, labels, np.array(data.crop, np.int32) if data.padding == "around" else size
