"""DAVIS 2016, or its videos in DAVIS 2017: each one's main object gets a class by the video's name.

    JPEGImages/480p/<video>/00000.jpg
    Annotations/480p/<video>/00000.png    2016: 0 and 255; 2017: 0 and the objects' numbers
    ImageSets/480p/train.txt, val.txt     2016: an image and its mask a line; 2017: ImageSets/2017,
                                          ImageSets/2016, a video a line

Perazzi et al., CVPR 2016; Pont-Tuset et al., arXiv:1704.00675. The classes are this package's:
DAVIS has none.
"""

from __future__ import annotations

import functools
import posixpath
from pathlib import Path

import numpy as np

from cffm_jax.data.image_files import UnreadableFile, open_image, read_bytes
from cffm_jax.data.import_labels.interface import Drawn, Format, Frame, Labels
from cffm_jax.data.import_labels.source import Source
from cffm_jax.data.labels.mask_files import read_values
from cffm_jax.data.pictures import DAMAGED
from cffm_jax.errors import InputError, first_few

_OBJECTS = {
    "person": (
        "breakdance breakdance-flare dance-jump dance-twirl hike hockey kite-surf kite-walk lucia paragliding "
        "paragliding-launch parkour rollerblade soapbox stroller surf swing tennis"
    ),
    "animal": (
        "bear blackswan camel cows dog dog-agility elephant flamingo goat libby mallard-fly mallard-water rhino"
    ),
    "vehicle": "boat bus car-roundabout car-shadow car-turn drift-chicane drift-straight drift-turn train",
    "rider": (
        "bmx-bumps bmx-trees horsejump-high horsejump-low motocross-bumps motocross-jump motorbike scooter-black "
        "scooter-gray"
    ),
}
"""Class -> videos whose main object is of it. A rider is the person with the animal or cycle."""
_NAMES = ("background", *_OBJECTS)
_LABELS = {video: _NAMES.index(name) for name, videos in _OBJECTS.items() for video in videos.split()}
_BALL = "soccerball"
"""DAVIS 2016's one other video."""
_IMAGES, _MASKS, _LISTS = "JPEGImages/480p/", "Annotations/480p/", "ImageSets/{}/{}.txt"
_MOST = 20
"""Objects that a video of DAVIS 2017 has at most, with room."""


def _recognise(source: Source) -> bool:
    return any(file.startswith((_IMAGES, _MASKS)) for file in source.files)


def _read(source: Source, _: str) -> Labels:
    splits = _splits(source)
    frames: list[Frame] = []
    there = set(source.files)
    seen, bare = set(), []
    for image in source.having(".jpg"):
        video = posixpath.basename(posixpath.dirname(image))
        if not image.startswith(_IMAGES) or video not in splits or video not in _LABELS:
            continue
        mask = f"{_MASKS}{video}/{posixpath.splitext(posixpath.basename(image))[0]}.png"
        bare += [] if mask in there else [image]
        seen.add(video)
        draw = functools.partial(_drawn, source.path(mask), _LABELS[video])
        frames.append(Frame(image, splits[video], draw, mask, video=video))
    if bare:
        problem = f"is one of {len(bare)} frames without a mask"
        raise InputError(source.path(bare[0]), problem, f"copy the masks into {source.path(_MASKS)}")
    absent = [video for video in splits if video in _LABELS and video not in seen]
    if absent:
        problem = f"lacks {len(absent)} of the videos that are listed: {first_few(absent, 3)}"
        raise InputError(source.path(_IMAGES), problem, "copy them there, or take them off the lists")
    notes = ["classes are by the videos' names, and all objects of a mask are the main one"]
    if _BALL in splits:
        notes.append(f"{_BALL} is left out: its object, a ball, is of no class")
    others = [video for video in splits if video not in _LABELS and video != _BALL]
    if others:
        notes.append(f"{len(others)} videos are left out, as DAVIS 2016 does not have them: {first_few(others, 3)}")
    masks = [frame.where for frame in frames]
    return Labels(_NAMES, "this package's", frames, masks=masks, notes=tuple(notes))


def _splits(source: Source) -> dict[str, str]:
    """Video -> split. InputError: no list is there."""
    # That of 2017 comes last: where its package holds those of 2016 too, these name what is read.
    year = next((each for each in ("480p", "2016", "2017") if _LISTS.format(each, "train") in source.files), None)
    if year is None:
        problem = f"has neither {_LISTS.format('480p', 'train')} nor {_LISTS.format('2017', 'train')}"
        raise InputError(source.root, problem, "copy DAVIS' folder ImageSets there")
    splits = {}
    for split in ("train", "val"):
        file = _LISTS.format(year, split)
        for line in source.text(file).split("\n") if file in source.files else ():
            words = line.split()
            if words:
                splits[posixpath.basename(posixpath.dirname(words[0])) or words[0]] = split
    return splits


def _drawn(path: Path, label: int, size: tuple[int, int]) -> Drawn:
    values = _values(path)
    most = int(values.max())
    if _MOST < most < 255:
        problem = f"has {most} as its largest value, which is neither white nor an object's number"
        raise InputError(path, problem, "copy the mask again, as DAVIS has it")
    # Should edges be blended, a pixel is of what it has more of.
    return Drawn(np.where(values > (127 if most == 255 else 0), np.uint8(label), np.uint8(0)))


def _values(path: Path) -> np.ndarray:
    """u8[H,W]. InputError: it is no such PNG."""
    data = read_bytes(path)
    image = open_image(path, data)
    if image.mode != "LA":
        return read_values(path, data).values
    # One mask of DAVIS 2016, bear/00077.png, has transparency, which says nothing.
    try:
        return np.asarray(image.getchannel(0))
    except DAMAGED as error:
        raise UnreadableFile(path, "cannot be read (truncated or damaged)", "copy it again") from error


_TRAINING = "--config b0_davis --init.encoder mit_b0.pth"
FORMAT = Format("davis", "DAVIS' masks (480p)", _recognise, _read, whole=True, training=_TRAINING)
