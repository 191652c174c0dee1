"""CamVid: its 11 classes as SegNet's tutorial has them, or its 32 in colours as it came out.

    train/0001TP_006690.png                     and val/, test/
    trainannot/0001TP_006690.png                grey: 0..10, and 11, which is ignored

    701_StillsRaw_full/0001TP_006690.png
    LabeledApproved_full/0001TP_006690_L.png    in colours

Classes, splits and the ignored label of both are those of the tutorial: Brostow, Fauqueur and
Cipolla 2009 for the data; Badrinarayanan, Kendall and Cipolla 2017 for the 11 classes.
"""

from __future__ import annotations

import functools
import posixpath
import re
from pathlib import Path

import numpy as np

from cffm_jax.data.image_files import read_bytes
from cffm_jax.data.import_labels.colour_table import ColourTable, read_coloured
from cffm_jax.data.import_labels.interface import NO_LABEL, Drawn, Format, Frame, Labels
from cffm_jax.data.import_labels.source import Source
from cffm_jax.data.labels.mask_files import read_values
from cffm_jax.errors import InputError, first_few

_CLASSES = {
    "sky": {"Sky": (128, 128, 128)},
    "building": {
        "Building": (128, 0, 0), "Archway": (192, 0, 128), "Bridge": (0, 128, 64), "Tunnel": (64, 0, 64),
        "Wall": (64, 192, 0),
    },
    "pole": {"Column_Pole": (192, 192, 128), "TrafficCone": (0, 0, 64)},
    "road": {"Road": (128, 64, 128), "LaneMkgsDriv": (128, 0, 192), "LaneMkgsNonDriv": (192, 0, 64)},
    "pavement": {"Sidewalk": (0, 0, 192), "ParkingBlock": (64, 192, 128), "RoadShoulder": (128, 128, 192)},
    "tree": {"Tree": (128, 128, 0), "VegetationMisc": (192, 192, 0)},
    "sign_symbol": {"SignSymbol": (192, 128, 128), "Misc_Text": (128, 128, 64), "TrafficLight": (0, 64, 64)},
    "fence": {"Fence": (64, 64, 128)},
    "car": {
        "Car": (64, 0, 128), "SUVPickupTruck": (64, 128, 192), "Truck_Bus": (192, 128, 192), "Train": (192, 64, 128),
        "OtherMoving": (128, 64, 64),
    },
    "pedestrian": {
        "Pedestrian": (64, 64, 0), "Child": (192, 128, 64), "CartLuggagePram": (64, 0, 192), "Animal": (64, 128, 64),
    },
    "bicyclist": {"Bicyclist": (0, 128, 192), "MotorcycleScooter": (192, 0, 192)},
}  # fmt: skip
"""Class -> the original labels in it, with their colours; the first one's is the class's."""
_VOID = {"Void": (0, 0, 0)}
_ORIGINAL = [*_CLASSES.values(), _VOID]
_TABLE = ColourTable(
    tuple(name for each in _ORIGINAL for name in each),
    np.array([colour for each in _ORIGINAL for colour in each.values()], np.uint8),
)
_UNITED = np.full(256, NO_LABEL, np.uint8)
"""Place in ``_TABLE`` -> class; void has none."""
_UNITED[: len(_TABLE.names) - len(_VOID)] = np.repeat(range(len(_CLASSES)), [*map(len, _CLASSES.values())])
_BLENDED = "Seq05VD_f02610"
"""The one frame whose mask in colours has blended ones along some edges."""

_IMAGES, _MASKS, _ANNOTATED = "701_StillsRaw_full", "LabeledApproved_full", "annot"
_SPLITS = ("train", "val", "test")
_FOLDERS = {_IMAGES, _MASKS, *(f"{split}{_ANNOTATED}" for split in _SPLITS)}
_NAME = re.compile(r"(\w+)_f?(\d+)")
"""A frame's name: its drive, and its number at 30 Hz."""


def _folder(file: str) -> str:
    return posixpath.basename(posixpath.dirname(file))


def _recognise(source: Source) -> bool:
    return any(_folder(file) in _FOLDERS for file in source.having(".png"))


def _mask_of(image: str) -> str:
    """Where the mask of an image is, "" for a file that is no image."""
    folder, name = posixpath.split(image)
    if _folder(image) in _SPLITS:
        return f"{folder}{_ANNOTATED}/{name}"
    if _folder(image) == _IMAGES:
        return posixpath.normpath(posixpath.join(folder, "..", _MASKS, f"{posixpath.splitext(name)[0]}_L.png"))
    return ""


def _read(source: Source, _: str) -> Labels:
    pairs = {image: mask for image in source.having(".png") if (mask := _mask_of(image))}
    there = set(source.files)
    bare = [image for image, mask in pairs.items() if mask not in there]
    if bare:
        problem = f"is one of {len(bare)} images without a mask"
        raise InputError(source.path(bare[0]), problem, f"copy the masks there too: {source.path(pairs[bare[0]])}")
    lost = [file for file in source.having(".png") if _folder(file) in _FOLDERS - {_IMAGES}]
    lost = sorted(set(lost) - set(pairs.values()))
    if lost:
        problem = f"is one of {len(lost)} masks without an image"
        raise InputError(source.path(lost[0]), problem, "copy the images there too, or remove it")
    frames = [_frame(source, image, mask) for image, mask in pairs.items()]
    notes = []
    if any(_folder(image) == _IMAGES for image in pairs):
        notes.append(f"{len(_TABLE.names)} labels become {len(_CLASSES)} classes, and splits, as in SegNet's tutorial")
    if any(_folder(image) == _IMAGES and _BLENDED in image for image in pairs):
        notes.append(f"pixels of {_BLENDED}_L.png that have the colour of no class are ignored")
    colours = np.array([next(iter(each.values())) for each in _CLASSES.values()], np.uint8)
    return Labels(tuple(_CLASSES), "SegNet's", frames, colours, pairs.values(), notes=tuple(notes))


def _frame(source: Source, image: str, mask: str) -> Frame:
    name, path = posixpath.splitext(posixpath.basename(image))[0], source.path(mask)
    named = _NAME.fullmatch(name)
    if not named:
        raise InputError(source.path(image), "is named as no frame of CamVid is", "name it as 0001TP_006690.png")
    drive, number = named[1], int(named[2])
    if _folder(image) in _SPLITS:
        split, draw = _folder(image), functools.partial(_numbered, path)
    else:
        split, draw = _split(source.path(image), drive, number), functools.partial(_coloured, path, name == _BLENDED)
    return Frame(image, split, draw, mask, video=f"{drive}_{split}")


def _split(path: Path, drive: str, number: int) -> str:
    """The split that SegNet's tutorial has a frame in. InputError: it is of none of the drives."""
    splits = {
        "0001TP": "train" if number < 8550 else "test",
        "0006R0": "train",
        "0016E5": "val" if 7959 <= number <= 8159 else "train",
        "Seq05VD": "test",
    }
    if drive not in splits:
        raise InputError(path, f"is of the drive {drive}, and CamVid's are {', '.join(splits)}", "remove it")
    return splits[drive]


def _numbered(path: Path, size: tuple[int, int]) -> Drawn:
    values = read_values(path, read_bytes(path)).values
    unknown = values[values > len(_CLASSES)]
    if len(unknown):
        problem = f"has {len(unknown)} pixels of values above {len(_CLASSES)} ({first_few(np.unique(unknown), 3)})"
        raise InputError(path, problem, "copy the mask again: classes are 0 to 10, and 11 is ignored")
    return Drawn(np.where(values == len(_CLASSES), np.uint8(NO_LABEL), values))


def _coloured(path: Path, blended: bool, size: tuple[int, int]) -> Drawn:
    return Drawn(_UNITED[read_coloured(path, _TABLE, size, blended=blended).labels])


_TRAINING = "--config b0_camvid --init.encoder mit_b0.pth"
FORMAT = Format("camvid", "CamVid's masks", _recognise, _read, whole=True, training=_TRAINING)
