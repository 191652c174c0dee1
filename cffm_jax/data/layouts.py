"""From a dataset's folder to lists of files, and from files to arrays.

Every fault of a dataset that shows itself here becomes an `InputError` that names the file.
"""

from __future__ import annotations

import dataclasses
import os
import re

import cv2
import numpy as np

from cffm_jax.config import IGNORED_LABEL
from cffm_jax.data.files import UnreadableFile, open_image, read_bytes
from cffm_jax.data.manifest import Manifest
from cffm_jax.errors import InputError

_READ_COLOURS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
_INVALID = 254
"""Stands for a raw label that no class has: the largest class is 253, 255 is ignored."""


@dataclasses.dataclass(frozen=True)
class Video:
    """One video of a split: its frames in temporal order and, one for each frame, their masks (or none at all)."""

    name: str
    frames: tuple[str, ...]
    masks: tuple[str, ...]


def read_split(root: str, split: str, masks: bool = True) -> tuple[Video, ...]:
    """Lists the videos of a split of a dataset in the VSPW_480p layout, in the order of the split file.

    The layout is ``<root>/data/<video>/origin/*.jpg``, ``<root>/data/<video>/mask/*.png`` and ``<root>/<split>.txt``
    with a video name a line. No image is opened.

    Args:
      root: the dataset's folder.
      split: name of the split file, without .txt.
      masks: whether every frame must have a mask; without, `Video.masks` is empty.

    Raises:
      InputError: a folder or the split file is missing or empty, a video is listed twice or is not there, or a video
        has no frames or a frame without a mask.
    """
    if not os.path.isdir(root):
        raise InputError(root, "there is no such folder", "point --data.root to the dataset's folder")
    data = os.path.join(root, "data")
    if not os.path.isdir(data):
        raise InputError(root, "has no data folder inside", "point --data.root to the folder that holds data/<video>")
    return tuple(_list_video(data, name, masks) for name in _read_names(os.path.join(root, f"{split}.txt")))


def _read_names(path: str) -> list[str]:
    """Reads the video names of a split file, one a line; blank lines count for nothing."""
    remedy = "give the name of a split file (without .txt) in the dataset's folder"
    try:
        with open(path, encoding="utf-8-sig") as file:
            names = [line.strip() for line in file if line.strip()]
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", remedy) from error
    except UnicodeDecodeError as error:
        raise InputError(path, "is not a text file", remedy) from error
    if not names:
        raise InputError(path, "lists no video", "write one video name a line")
    seen = set()
    for name in names:
        if name in seen:
            raise InputError(path, f"lists video {name!r} twice", "remove one of the two lines")
        seen.add(name)
    return names


def _list_video(data: str, name: str, masks: bool) -> Video:
    """Lists one video's frames and masks: two directory listings, no file is opened."""
    folder = os.path.join(data, name)
    origin = os.path.join(folder, "origin")
    frames = _list_files(origin, ".jpg")
    if not frames:
        if not os.path.isdir(folder):
            raise InputError(folder, "the split lists this video but it is missing", "add it or correct the split file")
        raise InputError(origin, "holds no .jpg frame", "add the frames or remove the video from the split")
    stems = sorted(frames, key=_numeric_order)
    if not masks:
        return Video(name, tuple(frames[stem] for stem in stems), ())
    labels = _list_files(os.path.join(folder, "mask"), ".png")
    for stem in stems:
        if stem not in labels:
            raise InputError(frames[stem], f"has no mask mask/{stem}.png", "add the mask or remove the frame")
    return Video(name, tuple(frames[stem] for stem in stems), tuple(labels[stem] for stem in stems))


def _list_files(folder: str, suffix: str) -> dict[str, str]:
    """Maps name without suffix -> path, for the folder's files with the suffix; a missing folder has none."""
    try:
        with os.scandir(folder) as entries:
            # Hidden files: some systems leave "._" companions of every image behind.
            names = [entry.name for entry in entries if entry.name.endswith(suffix) and not entry.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise InputError(folder, f"cannot be listed ({error.strerror})", "check the folder's permissions") from error
    return {name.removesuffix(suffix): os.path.join(folder, name) for name in names}


def _numeric_order(name: str) -> list[str | int]:
    """Sort key under which frame 10 follows frame 9, zero-padded or not."""
    return [int(part) if index % 2 else part for index, part in enumerate(re.split(r"(\d+)", name))]


def read_frame(path: str, manifest: Manifest | None = None) -> np.ndarray:
    """Reads an image as u8[H,W,3] in RGB, as stored (an EXIF orientation is not applied, masks have none).

    Args:
      path: a JPEG or PNG.
      manifest: what the file's bytes must be.

    Raises:
      UnreadableFile: the file cannot be read, is cut off, is no image, is too large, or is not what the manifest says.
    """
    return decode_frame(path, read_bytes(path, manifest))


def decode_frame(path: str, data: bytes) -> np.ndarray:
    """`read_frame` of a file whose bytes are there already."""
    # OpenCV before 5 decodes what there is of a truncated JPEG with no more than a warning on stderr. In the coded
    # image no marker can occur by chance, so a whole file has an end of image after its last start of scan.
    if data.startswith(b"\xff\xd8") and data.rfind(b"\xff\xd9") <= data.rfind(b"\xff\xda"):
        raise UnreadableFile(path, "is truncated: the JPEG's end is missing", "copy or download the file again")
    open_image(path, data)  # Refuses a size that OpenCV would believe.
    try:
        frame = cv2.imdecode(np.frombuffer(data, np.uint8), _READ_COLOURS)
    except cv2.error:
        frame = None
    if frame is None:
        raise UnreadableFile(path, "is damaged or no image", "copy or download the file again")
    return frame


def read_mask(path: str, num_classes: int, manifest: Manifest | None = None) -> np.ndarray:
    """Reads a mask as u8[H,W] with labels 0..num_classes-1 and 255 for ignored pixels.

    The file holds one byte a pixel, grey or palette (then the index counts, not the colour): 0 and 255 are ignored,
    1..num_classes are the classes 0..num_classes-1, as in VSPW.

    Raises:
      UnreadableFile: the file cannot be read, is cut off, is no image, is too large, or is not what the manifest says.
      InputError: it has other pixels than one byte, or holds a label above num_classes.
    """
    return decode_mask(path, read_bytes(path, manifest), num_classes)


def decode_mask(path: str, data: bytes, num_classes: int) -> np.ndarray:
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
    values = np.arange(256)
    table = np.where(values <= num_classes, values - 1, _INVALID)
    table[[0, 255]] = IGNORED_LABEL
    labels = cv2.LUT(raw, table.astype(np.uint8))
    if (labels == _INVALID).any():
        value = int(raw[labels == _INVALID].max())
        problem = f"holds label {value} but the model has {num_classes} classes (labels 1..{num_classes})"
        raise InputError(path, problem, "check the mask; --model.num_classes may be wrong")
    return labels


def read_pair(
    frame: str, mask: str, num_classes: int, manifest: Manifest | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Reads a frame u8[H,W,3] and its mask u8[H,W]; see `read_frame` and `read_mask`.

    Raises:
      InputError: one of the two cannot be used, or their sizes differ.
    """
    image = read_frame(frame, manifest)
    labels = read_mask(mask, num_classes, manifest)
    if image.shape[:2] != labels.shape:
        problem = f"is {labels.shape[1]}x{labels.shape[0]} but its frame is {image.shape[1]}x{image.shape[0]}"
        raise InputError(mask, problem, f"give it the size of {frame}")
    return image, labels
