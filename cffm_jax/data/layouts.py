"""From a dataset's folder to lists of files, and from files to arrays.

Every fault of a dataset that shows itself here becomes an `InputError` that names the file.
"""

from __future__ import annotations

import os
from typing import Literal

import cv2
import numpy as np

from cffm_jax.config import IGNORED_LABEL, DataConfig
from cffm_jax.data import cityscapes, folder, records
from cffm_jax.data.files import UnreadableFile, open_image
from cffm_jax.data.manifest import Manifest
from cffm_jax.data.records import read_all
from cffm_jax.data.videos import NO_CLASS, VSPW, Coding, Video, list_files, numeric_order, read_names
from cffm_jax.errors import InputError

_PNG_END = b"IEND\xaeB`\x82"
_READ_COLOURS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


def read_videos(data: DataConfig, split: str, masks: bool = True) -> tuple[Video, ...]:
    """The videos of a split as ``data`` says: `read_split`, and that every target has its references.

    Raises:
      InputError: as for `read_split`, or a reference of a target is missing.
    """
    videos = read_split(data.root, split, masks, data.layout)
    for video in videos:
        if video.numbers:
            for target in video.targets if video.masks else ():
                video.references(target, data.offsets)
    return videos


def read_split(
    root: str, split: str, masks: bool = True, layout: Literal["vspw", "cityscapes", "folder", "records"] = "vspw"
) -> tuple[Video, ...]:
    """Lists the videos of a split of a dataset. No image is opened.

    Args:
      root: the dataset's folder.
      split: in VSPW's layout and the plain one the name of a split file, without .txt, which lists the videos in
        their order; in Cityscapes' the name of a folder.
      masks: whether to look for masks; without, `Video.masks` is empty.
      layout: "vspw", where every frame must have a mask: ``data/<video>/origin/*.jpg``, ``data/<video>/mask/*.png``;
        "cityscapes", see `cityscapes`, and "folder", the plain one, see `folder`, where only some frames have masks,
        and videos without any are left out; "records", one of these as `prepare` wrote it, see `records`.

    Raises:
      InputError: a folder, a file or a mask is missing, a file has an unknown name, or a video is listed twice.
    """
    if not os.path.isdir(root):
        raise InputError(root, "there is no such folder", "point --data.root to the dataset's folder")
    if layout == "cityscapes":
        return cityscapes.read_split(root, split, masks)
    if layout == "folder":
        return folder.read_split(root, split, masks)
    if layout == "records":
        return records.read_split(root, split, masks)
    data = os.path.join(root, "data")
    if not os.path.isdir(data):
        remedy = "point --data.root to the folder that holds data/<video>, or name another --data.layout"
        raise InputError(root, "has no data folder inside", remedy)
    return tuple(_list_video(data, name, masks) for name in read_names(os.path.join(root, f"{split}.txt")))


SPLITS = cityscapes.SPLITS
"""Names that splits go by, unless one's own are named."""


def find_splits(root: str, layout: str, *, empty: bool = False) -> tuple[str, ...]:
    """Those of SPLITS that are there; all that records hold. ``empty``: split files of 0 bytes too.

    Raises:
      InputError: there is none, no such folder, or the folder of records is damaged.
    """
    if not os.path.isdir(root):
        raise InputError(root, "there is no such folder", "name the dataset's folder")
    if layout == "records":
        return tuple(records.read_index(root)["splits"])
    where = f"{cityscapes.SEQUENCES}/{{}}" if layout == "cityscapes" else "{}.txt"
    paths = {split: os.path.join(root, where.format(split)) for split in SPLITS}
    found = [split for split, path in paths.items() if os.path.exists(path) and (empty or os.path.getsize(path))]
    if not found:
        problem = f"has none of {', '.join(where.format(split) for split in SPLITS)}"
        raise InputError(root, problem, "name the splits with --splits, or another --layout")
    return tuple(found)


def _list_video(data: str, name: str, masks: bool) -> Video:
    """Lists one video's frames and masks: two directory listings, no file is opened."""
    folder = os.path.join(data, name)
    origin = os.path.join(folder, "origin")
    frames = list_files(origin, (".jpg",))
    if not frames:
        if not os.path.isdir(folder):
            raise InputError(folder, "the split lists this video but it is missing", "add it or correct the split file")
        raise InputError(origin, "holds no .jpg frame", "add the frames or remove the video from the split")
    stems = sorted(frames, key=numeric_order)
    if not masks:
        return Video(name, tuple(frames[stem] for stem in stems), ())
    labels = list_files(os.path.join(folder, "mask"), (".png",))
    for stem in stems:
        if stem not in labels:
            raise InputError(frames[stem], f"has no mask mask/{stem}.png", "add the mask or remove the frame")
    return Video(name, tuple(frames[stem] for stem in stems), tuple(labels[stem] for stem in stems))


def read_frame(path: str, manifest: Manifest | None = None) -> np.ndarray:
    """Reads an image as u8[H,W,3] in RGB, as stored (an EXIF orientation is not applied, masks have none).

    Args:
      path: a JPEG or PNG.
      manifest: what the file's bytes must be.

    Raises:
      UnreadableFile: the file cannot be read, is cut off, is no image, is too large, or is not what the manifest says.
    """
    return decode_frame(path, *read_all([path], manifest))


def decode_frame(path: str, data: bytes) -> np.ndarray:
    """`read_frame` of a file whose bytes are there already."""
    # OpenCV before 5 decodes what there is of a truncated JPEG with no more than a warning on stderr. In the coded
    # image no marker can occur by chance, so a whole file has an end of image after its last start of scan.
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


def read_mask(path: str, num_classes: int, coding: Coding = VSPW, manifest: Manifest | None = None) -> np.ndarray:
    """Reads a mask as u8[H,W] with labels 0..num_classes-1 and 255 for ignored pixels.

    The file holds one byte a pixel, grey or palette (then the index counts, not the colour), with what ``coding``
    says; VSPW's is 0 and 255 for ignored pixels, 1..num_classes for the classes 0..num_classes-1.

    Raises:
      UnreadableFile: the file cannot be read, is cut off, is no image, is too large, or is not what the manifest says.
      InputError: it has other pixels than one byte, or holds a label above num_classes.
    """
    return decode_mask(path, *read_all([path], manifest), num_classes, coding)


def decode_mask(path: str, data: bytes, num_classes: int, coding: Coding = VSPW) -> np.ndarray:
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
    frame: str, mask: str, num_classes: int, coding: Coding = VSPW, manifest: Manifest | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Reads a frame u8[H,W,3] and its mask u8[H,W]; see `read_frame` and `read_mask`.

    Raises:
      InputError: one of the two cannot be used, or their sizes differ.
    """
    return decode_pair(frame, mask, *read_all([frame, mask], manifest), num_classes, coding)


def decode_pair(
    frame: str, mask: str, frame_data: bytes, mask_data: bytes, num_classes: int, coding: Coding = VSPW
) -> tuple[np.ndarray, np.ndarray]:
    """`read_pair` of files whose bytes are there already."""
    image = decode_frame(frame, frame_data)
    labels = decode_mask(mask, mask_data, num_classes, coding)
    if image.shape[:2] != labels.shape:
        problem = f"is {labels.shape[1]}x{labels.shape[0]} but its frame is {image.shape[1]}x{image.shape[0]}"
        raise InputError(mask, problem, f"give it the size of {frame}")
    return image, labels
