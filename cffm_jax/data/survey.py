"""All that is in a dataset and all that is wrong with it, found in one walk over every file."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import tqdm

from cffm_jax.config import IGNORED_LABEL
from cffm_jax.data import layouts
from cffm_jax.data.classes import class_names
from cffm_jax.data.files import read_bytes
from cffm_jax.data.manifest import digest, relative_name
from cffm_jax.data.videos import list_files, numeric_order
from cffm_jax.errors import InputError

SPLITS = ("train", "val", "test")
DATASET, MISSING, UNREADABLE, SIZES = "dataset and split files", "missing files", "unreadable files", "sizes"
MASKS, SHORT, DUPLICATES = "masks", "short videos", "duplicates across splits"
MANIFEST = "files that are not as the manifest says"
GROUPS = (MANIFEST, DATASET, MISSING, UNREADABLE, SIZES, MASKS, SHORT, DUPLICATES)
_ANY = IGNORED_LABEL - 1
"""Masks are read with the largest number of classes, so that all their labels can be counted."""
_SAME = 0.5
"""Two videos are the same where this share of the shorter one's frames are the same files."""


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


@dataclasses.dataclass
class VideoFound:
    """What is in one video's files.

    Attributes:
      name: its folder.
      length: number of frames, readable or not.
      sizes: (width, height) -> frames of that size.
      masks: masks that could be read.
      pixels: i64[256], pixels of each class (255: ignored).
      frames: i64[256], masks that hold the class.
      digests: relative name -> sha256 of the files that could be read.
      contents: sha256 of its frames.
      problems: what is wrong with it.
    """

    name: str
    length: int = 0
    sizes: collections.Counter[tuple[int, int]] = dataclasses.field(default_factory=collections.Counter)
    masks: int = 0
    pixels: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(256, np.int64))
    frames: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(256, np.int64))
    digests: dict[str, bytes] = dataclasses.field(default_factory=dict)
    contents: set[bytes] = dataclasses.field(default_factory=set)
    problems: list[Problem] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Survey:
    """A dataset.

    Attributes:
      root: its folder.
      splits: split -> names of its videos, each once.
      videos: what was found, by name.
      unlisted: how many video folders no split names.
      names: of the classes.
      problems: everything, in the order of ``GROUPS``.
    """

    root: str
    splits: Mapping[str, tuple[str, ...]]
    videos: Mapping[str, VideoFound]
    unlisted: int
    names: tuple[str, ...]
    problems: tuple[Problem, ...]

    def good(self, split: str) -> tuple[str, ...]:
        """The split's videos without those that a problem says to leave out."""
        bad = {each.video for each in self.problems if each.split in ("", split)}
        return tuple(name for name in self.splits[split] if name not in bad)


def survey(
    root: str,
    splits: Sequence[str],
    *,
    unlabelled: Sequence[str] = ("test",),
    num_classes: int = 124,
    min_frames: int = 10,
    threads: int = 2,
    progress: bool = True,
) -> Survey:
    """Reads every file of the splits' videos.

    Args:
      root: a folder in the VSPW_480p layout, see `layouts.read_split`.
      splits: names of the split files, without .txt.
      unlabelled: splits whose videos need no masks.
      num_classes: the largest label of a mask.
      min_frames: a shorter video is a problem.
      threads: videos read at the same time; the result does not depend on it.
      progress: whether to show a progress bar.

    Raises:
      InputError: there is no such folder, or no data folder in it.
    """
    data = os.path.join(root, "data")
    if not os.path.isdir(data):
        problem = "has no data folder inside" if os.path.isdir(root) else "there is no such folder"
        raise InputError(root, problem, "name the folder that holds data/<video>")
    problems: list[Problem] = []
    listed = {split: _names(root, split, problems) for split in splits}
    try:
        names = class_names(root, num_classes)
    except InputError as error:
        names = tuple(f"class {i}" for i in range(num_classes))
        problems.append(Problem(DATASET, relative_name(error.where, root), error.problem, error.remedy))
    labelled = set(itertools.chain.from_iterable(listed[split] for split in splits if split not in unlabelled))

    def look(name: str) -> VideoFound:
        found = look_at_video(root, name, name in labelled, num_classes)
        if 0 < found.length < min_frames:
            problem = f"has {found.length} frames, fewer than {min_frames}: its clips lack references"
            found.problems.append(Problem(SHORT, f"data/{name}", problem, "leave it out, or accept that", name))
        return found

    wanted = list(dict.fromkeys(itertools.chain.from_iterable(listed.values())))
    pool = ThreadPoolExecutor(threads)
    try:
        results = tqdm.tqdm(pool.map(look, wanted), "check", len(wanted), unit="video", disable=not progress)
        videos = dict(zip(wanted, results, strict=True))
    finally:
        pool.shutdown(cancel_futures=True)
    problems += itertools.chain.from_iterable(found.problems for found in videos.values())
    problems += _duplicates(listed, videos)
    there = {entry.name for entry in os.scandir(data) if entry.is_dir() and not entry.name.startswith(".")}
    order = sorted(problems, key=lambda each: GROUPS.index(each.group))
    return Survey(root, listed, videos, len(there - videos.keys()), names, tuple(order))


def _names(root: str, split: str, problems: list[Problem]) -> tuple[str, ...]:
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
        if not os.path.isdir(os.path.join(root, "data", name)):
            problem = f"lists video {name!r}, which is not in data"
            problems.append(Problem(DATASET, file, problem, "add the video or correct the split file", name))
    return tuple(dict.fromkeys(names))


def look_at_video(root: str, name: str, labelled: bool, num_classes: int) -> VideoFound:
    """Reads all files of a video; ``labelled`` says whether it must have masks."""
    found = VideoFound(name)
    folder = os.path.join(root, "data", name)

    def add(group: str, file: str, problem: str, remedy: str) -> None:
        found.problems.append(Problem(group, relative_name(file, root), problem, remedy, name))

    if not os.path.isdir(folder):
        return found  # Said of the split file already.
    try:
        frames = list_files(os.path.join(folder, "origin"), (".jpg",))
        masks = list_files(os.path.join(folder, "mask"), (".png",))
    except InputError as error:
        add(UNREADABLE, error.where, error.problem, error.remedy)
        return found
    found.length = len(frames)
    if not frames:
        add(MISSING, os.path.join(folder, "origin"), "holds no .jpg frame", "add the frames or leave the video out")
    if labelled and frames and not masks:
        add(MISSING, os.path.join(folder, "mask"), "holds no .png mask", "add the masks or leave the video out")
    elif masks:
        for stem in sorted(frames.keys() - masks.keys(), key=numeric_order):
            add(MISSING, frames[stem], f"has no mask mask/{stem}.png", "add the mask or remove the frame")
    for stem in sorted(masks.keys() - frames.keys(), key=numeric_order):
        add(MISSING, masks[stem], f"has no frame origin/{stem}.jpg", "add the frame or remove the mask")
    shapes: dict[str, tuple[int, int]] = {}
    for stem in sorted(frames, key=numeric_order):
        try:
            data = read_bytes(frames[stem])
            shapes[stem] = layouts.decode_frame(frames[stem], data).shape[1::-1]
        except InputError as error:
            add(UNREADABLE, error.where, error.problem, error.remedy)
        else:
            found.digests[relative_name(frames[stem], root)] = digest(data)
            found.contents.add(digest(data))
    found.sizes.update(shapes.values())
    if len(found.sizes) > 1:
        (width, height), _ = found.sizes.most_common(1)[0]
        for stem, (w, h) in shapes.items():
            if (w, h) != (width, height):
                problem = f"is {w}x{h}, most frames of the video {width}x{height}"
                add(SIZES, frames[stem], problem, "give all frames of a video one size")
    for stem in sorted(masks, key=numeric_order):
        _look_at_mask(found, masks[stem], shapes.get(stem), root, num_classes, add)
    return found


def _look_at_mask(found: VideoFound, path: str, size: tuple[int, int] | None, root: str, num_classes: int, add) -> None:
    """Counts a mask's labels; ``size`` is its frame's (width, height)."""
    try:
        data = read_bytes(path)
        labels = layouts.decode_mask(path, data, _ANY)
    except InputError as error:
        add(MASKS if "pixels of mode" in error.problem else UNREADABLE, error.where, error.problem, error.remedy)
        return
    found.digests[relative_name(path, root)] = digest(data)
    found.masks += 1
    counts = np.bincount(labels.reshape(-1), minlength=256)
    found.pixels += counts
    found.frames += counts > 0
    other = np.flatnonzero(counts[num_classes:IGNORED_LABEL])
    if len(other):
        problem = f"holds label {num_classes + int(other[-1]) + 1}, the classes are 1..{num_classes}"
        add(MASKS, path, problem, "correct the mask, or give --num-classes")
    if size is not None and labels.shape[::-1] != size:
        problem = f"is {labels.shape[1]}x{labels.shape[0]}, its frame {size[0]}x{size[1]}"
        add(SIZES, path, problem, "give the mask its frame's size")


def _duplicates(splits: Mapping[str, tuple[str, ...]], videos: Mapping[str, VideoFound]) -> list[Problem]:
    """Videos of one split that are in a later one too, by name or by content; the earlier split is to lose them."""
    homes: dict[bytes, set[str]] = collections.defaultdict(set)
    for found in videos.values():
        for content in found.contents:
            homes[content].add(found.name)
    shared = collections.Counter(
        pair for owners in homes.values() if len(owners) > 1 for pair in itertools.permutations(owners, 2)
    )
    problems = []
    for split, later in itertools.combinations(splits, 2):
        remedy = f"leave it out of one of the two: here of {split}"
        for name in splits[split]:
            if name in splits[later]:
                problem = f"video {name!r} is in {later}.txt too"
                problems.append(Problem(DUPLICATES, f"{split}.txt", problem, remedy, name, split))
        inside = {name: set(splits[name]) for name in (split, later)}
        for (name, other), count in sorted(shared.items()):
            least = min(len(videos[name].contents), len(videos[other].contents))
            if name in inside[split] and other in inside[later] and count >= _SAME * least:
                problem = f"{count} of its frames are those of video {other!r} of {later}"
                problems.append(Problem(DUPLICATES, f"data/{name}", problem, remedy, name, split))
    return problems
