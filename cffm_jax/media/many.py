"""Which videos are meant, where each is an input by itself: arguments, folders, patterns, lists."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import NamedTuple

from cffm_jax.errors import InputError
from cffm_jax.media import images
from cffm_jax.media.source import STDIN, has_magic

_VIDEOS = (
    ".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv",
    ".ts", ".webm", ".wmv",
)  # fmt: skip
"""How names of videos end, where several are meant; one alone is known by what is in it."""
ABOUT = "prediction.json"
"""Marks the folder of a prediction, whose overlay is not another video."""
_LIST = ".txt"
"""How the name of a list of videos ends."""


class Video(NamedTuple):
    """A video or a folder of frames, and its name among the others: its path below what was given,
    of a file without the end."""

    path: str
    name: str


def several_videos(inputs: Sequence[str]) -> list[Video]:
    """The videos that are meant, by their names, in order; [] where the inputs are one: images, a
    folder that holds some, a camera, a single video.

    An argument is a video, a folder with videos in it or below, a pattern, or a list: a text file
    with one of these in each line, from the list's folder. Among several, and of a pattern, a
    folder that holds images is a video of these frames. A list means several even if it names one.

    Raises:
      InputError: a folder or a list cannot be read, an argument among several is none of these, a
        pattern in a list fits no video, a pattern fits images and folders of others, a video is
        named twice, or two have one name.
    """
    if STDIN in inputs:
        return []
    each = [list(_of_argument(name)) for name in inputs]
    videos = [video for some in each for video in some]
    if not videos or (len(inputs) == 1 and _is_one(inputs[0], videos)):
        return []
    for name, some in zip(inputs, each, strict=True):
        if not some:
            problem = "is no video, and of several inputs each is one"
            remedy = f"name videos alone, or images alone (of HEIC: {images.INSTALL_HEIF})"
            raise InputError(name, problem, remedy)
    files: dict[str, Video] = {}
    for video in videos:
        before = files.setdefault(os.path.realpath(video.path), video)
        if before is not video:
            problem = "is named twice" if before == video else f"is the same video as {before.path}"
            raise InputError(video.path, problem, "name it once, or take one of the links away")
    known: dict[str, str] = {}
    for path, name in videos:
        before = known.setdefault(name, path)
        if before != path:
            problem = f"has the name of {before}, and each video gets a folder of its name"
            raise InputError(path, problem, "rename one of them, or segment it by itself")
    for name, path in known.items():
        above = next((str(each) for each in PurePath(name).parents if str(each) in known), None)
        if above:
            problem = f"would lie in the folder of {known[above]}, as each video gets one of its name"
            raise InputError(path, problem, "rename one of them, or segment it by itself")
    return videos


def _is_one(name: str, videos: Sequence[Video]) -> bool:
    """Whether an argument names one video itself, or is a pattern that fits this file alone."""
    path = videos[0].path
    return len(videos) == 1 and (path == name or (_is_pattern(name) and _fitting(name)[0] == [path]))


def _of_argument(name: str) -> Iterator[Video]:
    if _is_list(name):
        yield from _listed(name)
    elif paths := _videos(name):
        if _is_pattern(name):
            root = fixed_part(name)
        else:
            root = os.path.dirname(os.path.abspath(name)) if paths == [name] else name
        yield from (Video(path, _below(root, path)) for path in paths)


def _videos(name: str) -> list[str]:
    """The videos that a path or a pattern names, [] if it names something else."""
    if os.path.isdir(name):
        return [name] if _holds_images(name) else _in_folder(name)
    if not _is_pattern(name):
        return [name] if _is_video(name) else []
    files, folders = _fitting(name)
    videos = [path for path in files if _is_video(path)]
    if not videos and any(map(_is_image, files)):
        others = folders.keys() - set(map(os.path.dirname, files))
        if others:
            problem = f"fits images, and folders of others, such as {folders[min(others)]}"
            raise InputError(name, problem, "end it with a / for the folders, or as the images' names do")
        return []
    return images.in_order([*videos, *folders.values()])


def _fitting(pattern: str) -> tuple[list[str], dict[str, str]]:
    """The files that a pattern fits, and the folders that hold images, by their paths without a /
    at the end; none of a prediction."""
    paths = [path for path in glob.glob(pattern, recursive=True) if not _is_made(path)]
    folders = [path for path in paths if os.path.isdir(path) and _holds_images(path)]
    return [path for path in paths if os.path.isfile(path)], {path.rstrip(os.sep): path for path in folders}


def _is_pattern(name: str) -> bool:
    return has_magic(name) and not os.path.lexists(name)


def _is_list(name: str) -> bool:
    return name.lower().endswith(_LIST) and os.path.isfile(name)


def _is_video(path: str) -> bool:
    return path.lower().endswith(_VIDEOS) and not os.path.isdir(path)


def _is_image(path: str) -> bool:
    return path.lower().endswith(images.SUFFIXES)


def _is_made(path: str) -> bool:
    """Whether it is of a prediction."""
    return os.path.exists(os.path.join(os.path.dirname(path), ABOUT))


def _below(folder: str, path: str) -> str:
    name = os.path.relpath(path, folder or ".")
    return name if os.path.isdir(path) else os.path.splitext(name)[0]


def fixed_part(pattern: str) -> str:
    """The folder in front of what varies; "" for the current one."""
    parts = pattern.split(os.sep)
    fixed = next(i for i, part in enumerate(parts) if has_magic(part))
    return os.sep.join(parts[:fixed]) or (os.sep if pattern.startswith(os.sep) else "")


def _holds_images(folder: str) -> bool:
    return any(map(_is_image, next(_files(folder), [])))


def _in_folder(folder: str) -> list[str]:
    """Its videos and those of the folders in it."""
    return [path for paths in _files(folder) for path in images.in_order(paths) if _is_video(path)]


def left_out(name: str) -> list[str]:
    """Of an argument among several the files that are no videos: in a folder of videos and the
    folders in it, or those that a pattern fits, also of a list. Folders of frames tell of other
    files by themselves."""
    if _is_list(name):
        return [path for line in _lines(name) for path in left_out(line)]
    files, folders = _fitting(name) if _is_pattern(name) else ([], {})
    if os.path.isdir(name) and not _holds_images(name):
        files = [path for paths in _files(name) for path in sorted(paths)]
    return [path for path in files if not _is_video(path) and os.path.dirname(path) not in folders]


def _files(folder: str) -> Iterator[list[str]]:
    """The files of a folder and of each folder in it, links too; without hidden ones and
    predictions. InputError: one cannot be listed."""

    def refuse(error: OSError) -> None:
        raise InputError(error.filename, f"cannot be listed ({error.strerror})", "check the folder's permissions")

    seen: set[str] = set()
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(place)
        if real in seen or ABOUT in names:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = images.in_order([name for name in folders if not name.startswith(".")])
        yield [os.path.join(place, name) for name in names if not name.startswith(".")]


def _lines(path: str) -> list[str]:
    """What a list names, each from the list's folder."""
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:  # Windows' programs put a mark first.
            lines = [line.rstrip("\r\n") for line in file]
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", "check its permissions") from error
    if any("\0" in line for line in lines):
        raise InputError(path, "is no text in UTF-8", "save it as UTF-8 (in PowerShell: Out-File -Encoding utf8)")
    named = [os.path.join(os.path.dirname(path), line) for line in lines if line.strip()]
    if not named:
        raise InputError(path, "names no video", "write a path into each line")
    return named


def _listed(path: str) -> Iterator[Video]:
    paths: list[str] = []
    for name in _lines(path):
        videos = _videos(name)
        if not videos and _is_pattern(name):
            problem = f"names {name}, which fits no video and no folder of images"
            raise InputError(path, problem, "write paths of videos, or of folders of images, or take the line out")
        paths += videos or [name]  # What is none is one that fails, by itself.
    root = os.path.commonpath([os.path.dirname(os.path.abspath(each)) for each in paths])
    yield from (Video(each, _below(root, os.path.abspath(each))) for each in paths)
