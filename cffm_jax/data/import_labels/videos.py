"""Which video a frame is of, and its place therein: by folders, or by the names of the files."""

from __future__ import annotations

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from cffm_jax.data.import_labels.interface import Frame
from cffm_jax.data.import_labels.source import UPLOAD, is_of_format, is_split
from cffm_jax.data.layouts.class_file import NAMES
from cffm_jax.data.layouts.folder import LAYOUT
from cffm_jax.data.layouts.names import numeric_order
from cffm_jax.errors import InputError, first_few

Way = Literal["auto", "folder", "stem"]
_NUMBERED = re.compile(r"(.*?)[-_. ]*(\d+)")
"""A name that ends in a number: what is before it, and the number."""
_ROBOFLOW = re.compile(r"_(?:jpg|jpeg|png|bmp|tif|tiff|webp)\.rf\.\w+$", re.IGNORECASE)
"""What Roboflow puts behind the name of an image: its old suffix and a number of its own."""
_TAKEN = (*NAMES, "train.txt", "val.txt", "test.txt")
"""Files that stand beside the videos of a dataset."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What ends a line of a split file, steers a terminal, or is no text."""


class Placed(NamedTuple):
    """A frame in a dataset: its video, its name there, and the split."""

    frame: Frame
    video: str
    name: str
    split: str


class Videos(NamedTuple):
    """The frames of a dataset, in the order of their videos and numbers, and lines to tell."""

    placed: Sequence[Placed]
    notes: tuple[str, ...]


def arrange(frames: Sequence[Frame], way: Way = "auto", root: Path = Path()) -> Videos:
    """Puts frames into videos.

    Where the format names the videos, they are these. Else a folder is one, but for those that a
    format has for its images or splits; where there is none but these, what stands before the
    number at the end of a file's name is.

    Args:
      frames: in any order.
      way: asks for one of the two, or for both where folders hold several such names.
      root: the source's folder, for messages.

    Raises:
      InputError: an image is of a kind that the layout folder does not have; a folder holds frames
        of several names, and ``way`` is open; two frames, or videos, come to have one name; or one
        has a name that cannot be a file's there.
    """
    unread = [frame.file for frame in frames if not frame.file.lower().endswith(LAYOUT.suffixes)]
    if unread:
        more = f", nor are {len(unread) - 1} more" if len(unread) > 1 else ""
        remedy = f"save frames as {' or '.join(LAYOUT.suffixes)}, and name them so in the labels"
        raise InputError(root / unread[0], f"is not read as a frame{more}", remedy)
    prefixed = _are_uploads(frames)
    by_video: dict[tuple[str, str], list[tuple[Frame, str]]] = defaultdict(list)
    stems: dict[str, set[str]] = defaultdict(set)
    cleaned = 0
    for frame in frames:
        folder, name, changed = _folder(frame.file), *_name(frame.file, prefixed)
        cleaned += changed
        if way == "auto" and frame.video:
            by_video["", frame.video].append((frame, name))
            continue
        numbered = _NUMBERED.fullmatch(name)
        stem = numbered[1] if numbered else name
        stems[folder].add(stem)
        by_video[folder, "" if way == "folder" or (way == "auto" and folder) else stem].append((frame, name))
    for folder, each in stems.items():
        if way == "auto" and folder and len(each) > 1:
            problem = f"holds frames of {len(each)} names ({first_few(sorted(each), 3)}), which may be videos"
            raise InputError(root / folder, problem, "give --videos folder (it is one video) or stem (a name is one)")
    placed, cut, unknown = _with_splits(by_video)
    _require_usable(placed, root)
    _require_distinct(placed, root)
    placed.sort(key=lambda each: (each.split, numeric_order(each.video), numeric_order(each.name)))
    return Videos(placed, _notes(placed, way, cut, unknown, cleaned, prefixed, set(stems)))


def _are_uploads(frames: Sequence[Frame]) -> bool:
    """Whether all names begin as Label Studio has them: each upload has other digits, and not all
    are decimal, as those of dates are."""
    found = [UPLOAD.match(posixpath.basename(frame.file)) for frame in frames]
    digits = {match[1] for match in found if match}
    return len(digits) == len(frames) and not all(map(str.isdecimal, digits))


def _folder(file: str) -> str:
    """The folders of a file that are not the format's own, with slashes."""
    parts = posixpath.dirname(file).split("/")
    return "/".join(part for part in parts if part and not is_of_format(part) and not is_split(part))


def _name(file: str, prefixed: bool) -> tuple[str, bool]:
    """A frame's name without what exports add to it, and whether they did."""
    stem = posixpath.splitext(posixpath.basename(file))[0]
    name = _ROBOFLOW.sub("", stem)
    return (UPLOAD.sub("", name) if prefixed else name), name != stem


def _with_splits(
    by_video: dict[tuple[str, str], list[tuple[Frame, str]]],
) -> tuple[list[Placed], list[str], int]:
    """The frames with the split of each, the videos that splits cut, and how many frames stay
    out."""
    placed, cut, names, unknown = [], [], {}, 0
    for (folder, stem), frames in by_video.items():
        splits = sorted({frame.split or "train" for frame, _ in frames if frame.split is not None})
        # Without dots at its start: a folder of that name would be hidden, or another's.
        name = "_".join(filter(None, (folder.replace("/", "_"), stem.strip()))).lstrip(". ").rstrip()
        if len(splits) > 1:
            cut.append(name or "(without a name)")
        for frame, own in frames:
            if frame.split is None and len(splits) != 1:
                unknown += 1
                continue
            split = splits[0] if frame.split is None else frame.split or "train"
            video = "_".join(filter(None, (name, split if len(splits) > 1 or not name else "")))
            other = names.setdefault(video, (folder, stem))
            if other != (folder, stem):
                problem = f"is the name of two videos, {'/'.join(other)} and {folder}/{stem}"
                raise InputError(video, problem, "rename one of the folders")
            placed.append(Placed(frame, video, own, split))
    return placed, cut, unknown


def _require_usable(placed: Sequence[Placed], root: Path) -> None:
    """InputError for a name that hides a frame or leads out of its folder, that a file of the
    dataset has, or that is no line of text."""
    for each in placed:
        if not each.name or each.name.startswith("."):
            problem = f"would be a hidden frame, named {each.name!r}"
        elif each.video.lower() in _TAKEN:
            problem = f"would be of the video {each.video}, and the dataset has a file of that name"
        elif _CONTROL.search(each.video + each.name):
            problem = "has a control character in its name, or in its folder's"
        else:
            continue
        raise InputError(root / each.frame.file, problem, "rename it, here and in the labels")


def _require_distinct(placed: Sequence[Placed], root: Path) -> None:
    """InputError for two frames of one video that have one name, or one place in its order."""
    there: dict[tuple[str, str], Frame] = {}
    for each in placed:
        key = each.video, str(numeric_order(each.name))
        other = there.setdefault(key, each.frame)
        if other is not each.frame:
            problem = f"would be frame {each.name} of the video {each.video}, as {other.file} would"
            raise InputError(root / each.frame.file, problem, "remove one of the two (export without augmentations)")


def _notes(
    placed: Sequence[Placed], way: Way, cut: list[str], unknown: int, cleaned: int, prefixed: bool, folders: set[str]
) -> tuple[str, ...]:
    lengths = Counter(each.video for each in placed)
    rule = {"folder": "a folder is a video", "stem": "what stands before a name's last number is a video"}
    said = rule["folder"] if way == "folder" or (way == "auto" and any(folders)) else rule["stem"]
    if way == "stem" and any(folders):
        said += ", in each folder"
    if not folders:
        said = "videos are those of the dataset"
    notes = [
        f"{said}: {first_few((f'{video} ({count})' for video, count in lengths.items()), 6)}; in order of the numbers"
    ]
    single = sum(count == 1 for count in lengths.values())
    if single:
        notes.append(f"{single} of {len(lengths)} videos have one frame alone: nothing moves in them")
    numbers: dict[str, list[int]] = defaultdict(list)
    for each in placed:
        numbered = _NUMBERED.fullmatch(each.name)
        numbers[each.video] += [int(numbered[2])] if numbered else []
    gaps = [video for video, each in numbers.items() if len({b - a for a, b in zip(each, each[1:])}) > 1]
    if gaps:
        words = first_few(gaps, 4)
        notes.append(f"{len(gaps)} videos have gaps in their numbers: frames are not equally far apart in {words}")
    if cleaned:
        notes.append(f"{cleaned} names lose what Roboflow adds to them (_jpg.rf.…)")
    if prefixed:
        notes.append("names lose the 8 hexadecimal digits that Label Studio puts before them")
    if cut:
        words = first_few(sorted(cut), 4)
        notes.append(f"{len(cut)} names of videos are in several splits, and become a video in each: {words}")
    if unknown:
        notes.append(f"{unknown} images are in no split, nor their videos in one: left out")
    return tuple(notes)
