"""Layouts by their names, and the videos of a dataset's folder.

Every fault of a dataset that shows itself here becomes an `InputError` that names the file.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
import shlex
from collections.abc import Callable, Sequence
from typing import get_args

from cffm_jax.config import DataConfig, LayoutName
from cffm_jax.data.layouts.class_file import read_class_file
from cffm_jax.data.layouts.layout import Layout
from cffm_jax.data.layouts.listing import Listing
from cffm_jax.data.layouts.video import Coding, Video
from cffm_jax.data.palettes import Palettes
from cffm_jax.errors import InputError
from cffm_jax.runtime.checksums import Manifest, read_manifest

_NAMES: tuple[str, ...] = get_args(LayoutName)
_BUILT_IN = "synthetic"
"""Name of the folder of the built-in videos, in the config and the documentation."""


@functools.cache
def _named(name: str) -> Layout:
    return importlib.import_module(f"cffm_jax.data.layouts.{name}").LAYOUT


def layout_of(layout: str | Layout) -> Layout:
    """A layout by its name in `config.LayoutName`, which its file has too; or a layout itself."""
    return _named(layout) if isinstance(layout, str) else layout


def layouts_with(suits: Callable[[Layout], object]) -> tuple[str, ...]:
    """Names of the layouts that suit, in the order of `config.LayoutName`."""
    return tuple(name for name in _NAMES if suits(_named(name)))


def source_of(layout: str | Layout, root: str) -> Layout:
    """The layout that ``root`` was made of: for records that of the prepared folder, else itself.

    Raises:
      InputError: the folder of records is damaged, or was made of a layout that is not known here.
    """
    layout = layout_of(layout)
    name = layout.source(root)
    if name == layout.name:
        return layout
    if name not in _NAMES:
        raise InputError(root, f"was made of a layout {name!r}, which is unknown here", "use the version that wrote it")
    return _named(name)


def read_videos(data: DataConfig, split: str, masks: bool = True) -> tuple[Video, ...]:
    """Lists a split as ``data`` says (`read_split`); checks that every target has its references.

    Raises:
      InputError: as for `read_split`, or a reference of a target is missing.
    """
    videos = read_split(data.root, split, masks, data.layout)
    for video in videos:
        if video.numbers:
            for target in video.targets if video.masks else ():
                video.references(target, data.offsets)
    return videos


def read_split(root: str, split: str, masks: bool = True, layout: str | Layout = "vspw") -> tuple[Video, ...]:
    """Lists the videos of a split of a dataset. No image is opened.

    Args:
      root: the dataset's folder.
      split: the name of a split file, without .txt, which lists the videos in their order; in
        Cityscapes' layout the name of a folder, in records of one of theirs.
      masks: whether to look for masks; without, `Video.masks` is empty.
      layout: a name in `config.LayoutName`, or a layout. The files `vspw`, `cityscapes`, `folder`
        and `records` say what each is, and which frames have masks. The colours that the folder's
        class file states go into `Video.coding`, and where nothing states them `palettes.Palettes`.

    Raises:
      InputError: a folder, file or mask is missing, a name is unknown, a video is listed twice, or
        the class file cannot be used.
    """
    require_folder(root)
    coloured = _stated_colours(root, None if source_of(layout, root).fixed_labels else Palettes())
    videos = layout_of(layout).videos(root, split, masks)
    return tuple(dataclasses.replace(video, coding=coloured(video.coding)) for video in videos)


def require_folder(root: str) -> None:
    """InputError unless a run's data lie there."""
    if not root:
        raise InputError("--data.root", "is missing", "name the dataset's folder")
    if not os.path.isdir(root):
        remedy = "point --data.root to the dataset's folder"
        if os.path.basename(root) == _BUILT_IN:
            remedy += f", or make the built-in videos there: python -m cffm_jax.data.synthetic {shlex.quote(root)}"
        raise InputError(root, "there is no such folder", remedy)


def _stated_colours(root: str, palettes: Palettes | None = None) -> Callable[[Coding], Coding]:
    """Adds the colours of the folder's class file to codings, or without any ``palettes``.

    InputError: it cannot be used.
    """
    stated = read_class_file(root)
    if stated is None or stated.colours is None:
        return lambda coding: dataclasses.replace(coding, palettes=palettes)
    colours = stated.colours.tobytes()
    ignored = b"" if stated.ignored_colour is None else stated.ignored_colour.tobytes()
    return functools.cache(lambda coding: dataclasses.replace(coding, colours=colours, ignored_colour=ignored))


def find_splits(root: str, layout: str | Layout, *, empty: bool = False) -> tuple[str, ...]:
    """The splits that are there under their usual names, train, val and test; all that records
    hold. ``empty``: split files of 0 bytes too.

    Raises:
      InputError: there is none, no such folder, or the folder of records is damaged.
    """
    if not os.path.isdir(root):
        raise InputError(root, "there is no such folder", "name the dataset's folder")
    return layout_of(layout).splits(root, empty=empty)


def list_dataset(
    root: str, layout: str | Layout, splits: Sequence[str], unlabelled: Sequence[str], offsets: Sequence[int]
) -> Listing:
    """Lists the videos of the splits with everything that is missing there, which ends nothing.

    Args:
      root: the dataset's folder.
      layout: as for `read_split`.
      splits: as for `read_split`.
      unlabelled: splits whose videos need no masks.
      offsets: how far from its target each reference lies, where they go by the frames' numbers.

    Raises:
      InputError: there is no such folder, or it has another layout.
    """
    if not os.path.isdir(root):
        raise InputError(root, "there is no such folder", "name a dataset's folder")
    listing = layout_of(layout).listing(root, splits, unlabelled, offsets)
    try:
        coloured = _stated_colours(root)
    except InputError:
        return listing  # What is wrong with the class file is said when its names are read.
    videos = {
        name: dataclasses.replace(listed, coding=coloured(listed.coding)) for name, listed in listing.videos.items()
    }
    return dataclasses.replace(listing, videos=videos)


def manifest_of(data: DataConfig) -> Manifest | None:
    """Checksums to compare files with; None without ``data.verify`` or where files have their own.

    Raises:
      InputError: there is no manifest, or it cannot be read.
    """
    return read_manifest(data.root) if data.verify and not layout_of(data.layout).checksummed else None
