"""From a dataset's folder to lists of files, and from files to arrays.

Every fault of a dataset that shows itself here becomes an `InputError` that names the file.
"""

from __future__ import annotations

import os
from typing import Literal

from cffm_jax.config import DataConfig
from cffm_jax.data.layouts import cityscapes, folder, records
from cffm_jax.data.layouts.names import read_names
from cffm_jax.data.layouts.video import Video
from cffm_jax.data.layouts.vspw import _list_video
from cffm_jax.errors import InputError


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
