"""What a dataset's folders hold, with everything that is missing there: no image is opened, nothing stops it."""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cffm_jax.data.layouts import cityscapes, folder, records
from cffm_jax.data.layouts.classes import ignored_label
from cffm_jax.data.layouts.names import list_files, list_folders, numeric_order
from cffm_jax.data.layouts.video import VSPW, Coding, plain_coding
from cffm_jax.errors import InputError
from cffm_jax.runtime.checksums import relative_name

DATASET, MISSING, UNREADABLE, SIZES = "dataset and split files", "missing files", "unreadable files", "sizes"
MASKS, SHORT, DUPLICATES = "masks", "short videos", "duplicates across splits"
MANIFEST = "files that are not as the manifest says"
GROUPS = (MANIFEST, DATASET, MISSING, UNREADABLE, SIZES, MASKS, SHORT, DUPLICATES)


class Problem(NamedTuple):
    """One thing that is wrong.

    Attributes:
      group: one of ``GROUPS``.
      file: relative to the dataset's folder.
      problem: what is wrong.
      remedy: what to do.
      video: which video to leave out, "" for none.
      split: the split to leave it out of, "" for all.
    """

    group: str
    file: str
    problem: str
    remedy: str
    video: str = ""
    split: str = ""


@dataclasses.dataclass(frozen=True)
class Listed:
    """The files of one video.

    Attributes:
      name: of the video.
      place: what stands for it in messages, relative to the dataset's folder: its own folder, where it has one.
      frames: files by their names without suffix, in temporal order.
      masks: likewise; a mask has its frame's name.
      coding: what the masks' bytes mean.
    """

    name: str
    place: str
    frames: Mapping[str, str]
    masks: Mapping[str, str]
    coding: Coding


@dataclasses.dataclass(frozen=True)
class Listing:
    """A dataset.

    Attributes:
      splits: split -> names of its videos, each once.
      videos: by name; one that is not there has no files.
      unlisted: how many video folders no split names.
      problems: what is wrong with the folders and the split files.
    """

    splits: Mapping[str, tuple[str, ...]]
    videos: Mapping[str, Listed]
    unlisted: int
    problems: tuple[Problem, ...]


class _Layout(NamedTuple):
    """Where a video's files are: below ``base``/<video>."""

    base: str
    frames: str
    suffixes: tuple[str, ...]
    masks: str
    every_frame: bool


_LAYOUTS = {
    "vspw": _Layout("data", "origin", (".jpg",), "mask", True),
    "folder": _Layout("", "frames", folder.FRAMES, "masks", False),
}


def list_dataset(
    root: str, layout: str, splits: Sequence[str], unlabelled: Sequence[str], offsets: Sequence[int]
) -> Listing:
    """Lists the videos of the splits.

    Args:
      root: a folder in one of the layouts of `layouts.read_split`.
      layout: "vspw", "cityscapes", "folder" or "records".
      splits: names of split files, without .txt; in Cityscapes' layout of folders.
      unlabelled: splits whose videos need no masks.
      offsets: in Cityscapes' layout, how far from its target each reference lies.

    Raises:
      InputError: there is no such folder, or it has another layout.
    """
    if not os.path.isdir(root):
        raise InputError(root, "there is no such folder", "name a dataset's folder")
    if layout == "cityscapes":
        return _list_cityscapes(root, splits, unlabelled, offsets)
    if layout == "records":
        return _list_records(root, splits, unlabelled)
    where = _LAYOUTS[layout]
    base = os.path.join(root, where.base)
    if not os.path.isdir(base):
        remedy = "name the folder that holds data/<video>, or give another --layout"
        raise InputError(root, f"has no {where.base} folder inside", remedy)
    problems: list[Problem] = []
    listed = {split: _names(root, split, where.base, problems) for split in splits}
    coding = VSPW
    if layout == "folder":
        try:
            coding = plain_coding(ignored_label(root))
        except InputError:
            coding = plain_coding()  # What is wrong with the class file is said when its names are read.
    labelled = {name for split in splits if split not in unlabelled for name in listed[split]}
    videos = {}
    for name in dict.fromkeys(name for names in listed.values() for name in names):
        videos[name] = _list_video(root, where, name, coding, name in labelled, problems)
    if not where.every_frame:
        for split, names in listed.items():
            if split not in unlabelled and names and not any(videos[name].masks for name in names):
                problem = "lists no video with a mask"
                remedy = f"add masks as <video>/{where.masks}/<frame>.png, or name it with --unlabelled"
                problems.append(Problem(DATASET, f"{split}.txt", problem, remedy))
    unlisted = len([name for name in list_folders(base) if name not in videos and _holds_video(base, name, where)])
    return Listing(listed, videos, unlisted, tuple(problems))


def _holds_video(base: str, name: str, where: _Layout) -> bool:
    """Whether a folder is one of a video; in VSPW's layout all are, where the videos have a folder to themselves."""
    return bool(where.base) or os.path.isdir(os.path.join(base, name, where.frames))


def _names(root: str, split: str, base: str, problems: list[Problem]) -> tuple[str, ...]:
    """The names in a split file, each once."""
    file = f"{split}.txt"
    remedy = "correct the split file"
    try:
        with open(os.path.join(root, file), encoding="utf-8-sig") as lines:
            names = [line.strip() for line in lines if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        problem = f"cannot be read ({getattr(error, 'strerror', None) or 'no text file'})"
        problems.append(Problem(DATASET, file, problem, remedy))
        return ()
    if not names:
        problems.append(Problem(DATASET, file, "lists no video", "write one video name a line"))
    for name, count in collections.Counter(names).items():
        if count > 1:
            problems.append(Problem(DATASET, file, f"lists video {name!r} {count} times", "keep one of the lines"))
        if not os.path.isdir(os.path.join(root, base, name)):
            problem = f"lists video {name!r}, which is not in {base or 'the folder'}"
            problems.append(Problem(DATASET, file, problem, "add the video or correct the split file", name))
    return tuple(dict.fromkeys(names))


def _list_video(
    root: str, where: _Layout, name: str, coding: Coding, labelled: bool, problems: list[Problem]
) -> Listed:
    """The files of a video; ``labelled`` says whether it is one to train or evaluate on."""
    place = "/".join(filter(None, (where.base, name)))
    path = os.path.join(root, where.base, name)
    if not os.path.isdir(path):
        return Listed(name, place, {}, {}, coding)  # What is wrong was said of the split file.

    def add(group: str, file: str, problem: str, remedy: str) -> None:
        problems.append(Problem(group, relative_name(file, root), problem, remedy, name))

    try:
        frames = _in_order(list_files(os.path.join(path, where.frames), where.suffixes))
        masks = _in_order(list_files(os.path.join(path, where.masks), (".png",)))
    except InputError as error:
        add(UNREADABLE, error.where, error.problem, error.remedy)
        return Listed(name, place, {}, {}, coding)
    if not frames:
        problem = f"holds no {' or '.join(where.suffixes)} frame"
        add(MISSING, os.path.join(path, where.frames), problem, "add the frames or leave the video out")
    if labelled and where.every_frame and frames and not masks:
        add(MISSING, os.path.join(path, where.masks), "holds no .png mask", "add the masks or leave the video out")
    elif masks and where.every_frame:
        for stem in (stem for stem in frames if stem not in masks):
            add(MISSING, frames[stem], f"has no mask {where.masks}/{stem}.png", "add the mask or remove the frame")
    for stem in (stem for stem in masks if stem not in frames):
        problem = f"has no frame {where.frames}/{stem}{'' if len(where.suffixes) > 1 else where.suffixes[0]}"
        add(MISSING, masks[stem], problem, "add the frame or remove the mask")
    return Listed(name, place, frames, masks, coding)


def _in_order(files: Mapping[str, str]) -> dict[str, str]:
    return {stem: files[stem] for stem in sorted(files, key=numeric_order)}


def _list_cityscapes(root: str, splits: Sequence[str], unlabelled: Sequence[str], offsets: Sequence[int]) -> Listing:
    problems: list[Problem] = []

    def note(error: InputError, video: str = "") -> None:
        problems.append(Problem(MISSING, relative_name(error.where, root), error.problem, error.remedy, video))

    listed: dict[str, tuple[str, ...]] = {}
    videos: dict[str, Listed] = {}
    for split in splits:
        found = cityscapes.read_split(root, split, split not in unlabelled, note)
        listed[split] = tuple(video.name for video in found)
        for video in found:
            frames = {os.path.basename(path).removesuffix("_leftImg8bit.png"): path for path in video.frames}
            masks = {stem: mask for stem, mask in zip(frames, video.masks) if mask is not None}
            videos[video.name] = Listed(video.name, relative_name(video.frames[0], root), frames, masks, video.coding)
            for target in video.targets if video.masks else ():
                try:
                    video.references(target, offsets)
                except InputError as error:
                    note(error, video.name)
    return Listing(listed, videos, 0, tuple(problems))


def _list_records(root: str, splits: Sequence[str], unlabelled: Sequence[str]) -> Listing:
    """What is missing in a dataset was said when it was prepared."""
    listed: dict[str, tuple[str, ...]] = {}
    videos: dict[str, Listed] = {}
    for split in splits:
        found = records.read_split(root, split, split not in unlabelled)
        listed[split] = tuple(video.name for video in found)
        for video in found:
            frames = {str(i): path for i, path in enumerate(video.frames)}
            masks = {stem: mask for stem, mask in zip(frames, video.masks) if mask is not None}
            videos[video.name] = Listed(video.name, f"{split}: {video.name}", frames, masks, video.coding)
    return Listing(listed, videos, 0, ())
