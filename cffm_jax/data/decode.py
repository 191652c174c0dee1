"""Frames and masks from the bytes of their files."""

from __future__ import annotations

import cv2
import numpy as np

from cffm_jax.config import IGNORED_LABEL
from cffm_jax.data.image_files import FileName, UnreadableFile, open_image
from cffm_jax.data.layouts.records import read_all, read_one
from cffm_jax.data.layouts.video import NO_CLASS, VSPW, Coding
from cffm_jax.errors import InputError
from cffm_jax.runtime.checksums import Manifest

_PNG_END = b"IEND\xaeB`\x82"

_READ_COLOURS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


def read_frame(path: FileName, manifest: Manifest | None = None) -> np.ndarray:
    """Reads an image as u8[H,W,3] RGB, as stored: no EXIF orientation is applied (masks have none).

    Args:
      path: a JPEG or PNG.
      manifest: what the file's bytes must be.

    Raises:
      UnreadableFile: it is unreadable, cut off, no image, too large or not as the manifest says.
    """
    return decode_frame(path, read_one(path, manifest))


def decode_frame(path: FileName, data: bytes) -> np.ndarray:
    """`read_frame` of a file whose bytes are there already."""
    # OpenCV before 5 decodes what there is of a truncated JPEG with no more than a warning on
    # stderr. In the coded image no marker can occur by chance, so a whole file has an end of image
    # after its last start of scan.
    if data.startswith(b"\xff\xd8") and data.rfind(b"\xff\xd9") <= data.rfind(b"\xff\xda"):
        raise UnreadableFile(path, "is truncated: the JPEG's end is missing", "copy or download the file again")
    open_image(path, data)  # Refuses a size that OpenCV would believe.
    if data.startswith(b"\x89PNG") and _PNG_END not in data:
        raise UnreadableFile(path, "is truncated: the PNG's end is missing", "copy or download the file again")
    try:
        frame = cv2.imdecode(np.frombuffer(data, np.uint8), _READ_COLOURS)
    except cv2.error:
        frame = None
    if frame is None:
        raise UnreadableFile(path, "is damaged or no image", "copy or download the file again")
    return frame


def read_mask(path: FileName, num_classes: int, coding: Coding = VSPW, manifest: Manifest | None = None) -> np.ndarray:
    """Reads a mask as u8[H,W] with labels 0..num_classes-1 and 255 for ignored pixels.

    The file holds one byte a pixel, grey or palette (the index counts, not the colour), coded as
    ``coding`` says; VSPW's: 0 and 255 ignored pixels, 1..num_classes the classes from 0 on.

    Raises:
      UnreadableFile: it is unreadable, cut off, no image, too large or not as the manifest says.
      InputError: it has other pixels than one byte, or holds a label above num_classes.
    """
    return decode_mask(path, read_one(path, manifest), num_classes, coding)


def decode_mask(path: FileName, data: bytes, num_classes: int, coding: Coding = VSPW) -> np.ndarray:
    """`read_mask` of a file whose bytes are there already."""
    image = open_image(path, data)
    try:
        mode = image.mode
        raw = np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        problem = "cannot be read (truncated, damaged or no image)"
        raise UnreadableFile(path, problem, "copy or download the file again") from error
    if mode not in ("L", "P"):
        problem = f"has pixels of mode {mode}"
        raise InputError(path, problem, "save masks with one byte a pixel, grey (L) or palette (P)")
    table = np.frombuffer(coding.table, np.uint8)
    table = np.where((table >= num_classes) & (table != IGNORED_LABEL), np.uint8(NO_CLASS), table)
    labels = cv2.LUT(raw, table)
    if (labels == NO_CLASS).any():
        value = int(raw[labels == NO_CLASS].max())
        problem = f"holds label {value} but the model has {num_classes} classes ({coding.words(num_classes)})"
        raise InputError(path, problem, "check the mask; --model.num_classes may be wrong")
    return labels


def read_pair(
    frame: FileName, mask: FileName, num_classes: int, coding: Coding = VSPW, manifest: Manifest | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Reads a frame u8[H,W,3] and its mask u8[H,W]; see `read_frame` and `read_mask`.

    Raises:
      InputError: one of the two cannot be used, or their sizes differ.
    """
    frame_data, mask_data = read_all([frame, mask], manifest)
    return decode_pair(frame, mask, frame_data, mask_data, num_classes, coding)


def decode_pair(
    frame: FileName, mask: FileName, frame_data: bytes, mask_data: bytes, num_classes: int, coding: Coding = VSPW
) -> tuple[np.ndarray, np.ndarray]:
    """`read_pair` of files whose bytes are there already."""
    image = decode_frame(frame, frame_data)
    labels = decode_mask(mask, mask_data, num_classes, coding)
    if image.shape[:2] != labels.shape:
        problem = f"is {labels.shape[1]}x{labels.shape[0]} but its frame is {image.shape[1]}x{image.shape[0]}"
        raise InputError(mask, problem, f"give it the size of {frame}")
    return image, labels
