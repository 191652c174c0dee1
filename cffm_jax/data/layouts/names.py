"""Names of files and folders of a dataset, listed and put in order."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from cffm_jax.errors import InputError

_IMAGES = (
    ".bmp", ".gif", ".heic", ".jp2", ".jpeg", ".jpg", ".npy", ".npz", ".pgm", ".png", ".ppm", ".tga", ".tif", ".tiff",
    ".webp",
)  # fmt: skip
"""Suffixes of pictures and labels, whether a layout reads them or not."""


def list_files(folder: str, suffixes: Sequence[str], others: list[str] | None = None) -> dict[str, str]:
    """Name without suffix -> path of the folder's files with these suffixes; none without a folder.

    A suffix counts in capitals too. What has another one is added to ``others``, a folder with a /.

    Raises:
      InputError: the folder cannot be listed, or two files differ in their suffix alone.
    """
    try:
        with os.scandir(folder) as entries:
            # Hidden files: some systems leave "._" companions of every image behind.
            found = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise InputError(folder, f"cannot be listed ({error.strerror})", "check the folder's permissions") from error
    files: dict[str, str] = {}
    for entry in found:
        name = entry.name
        lower = name.lower()
        suffix = next((suffix for suffix in suffixes if lower.endswith(suffix.lower())), None)
        path = os.path.join(folder, name)
        if suffix is None:
            if others is not None:
                others.append(os.path.join(path, "") if entry.is_dir() else path)
            continue
        stem = name[: -len(suffix)]
        if stem in files:
            raise InputError(path, f"is there beside {os.path.basename(files[stem])}", "remove one of the two")
        files[stem] = path
    return files


def in_other_case(path: str) -> str:
    """The name of another file or folder beside a path whose name differs in capitals alone, ""
    for none."""
    folder, name = os.path.split(path)
    try:
        there = sorted(os.listdir(folder or "."))
    except OSError:
        return ""
    if name not in there and os.path.lexists(path):  # Capitals do not count on this disk.
        return ""
    return next((each for each in there if each != name and each.lower() == name.lower()), "")


def missing_but_for_case(path: str) -> str:
    """Says in brackets what is there under a missing path's name in other capitals; "" for
    nothing."""
    close = "" if os.path.lexists(path) else in_other_case(path)
    return f" ({close} is there: capitals count)" if close else ""


def unread_images(folder: str, read: Mapping[str, str], others: Iterable[str]) -> list[str]:
    """Those images among the ``others`` of a folder that are no second version of what is ``read``
    there, see `list_files`."""
    images = (path for path in others if os.path.dirname(path) == folder and path.lower().endswith(_IMAGES))
    return [path for path in images if os.path.splitext(os.path.basename(path))[0] not in read]


def count_by_suffix(paths: Iterable[str]) -> dict[str, int]:
    """How many paths have each suffix, as it is written, the most frequent first; "folder" of a
    path that ends with a /, "no suffix" of those without."""
    kinds = ("folder" if path.endswith(os.sep) else os.path.splitext(path)[1] or "no suffix" for path in paths)
    return dict(Counter(kinds).most_common())


def beside(paths: Sequence[str]) -> str:
    """Says in brackets what else a folder holds, where files are missing; "" for nothing."""
    return f" ({_in_words(paths)})" if paths else ""


def passed_over_in_words(paths: Sequence[str], reason: str = "neither frames nor masks") -> str:
    """Says how many files of which suffix were left out, with the first for an example."""
    return f"left out, as {reason}: {_in_words(paths)}, such as {paths[0]}"


def _in_words(paths: Iterable[str]) -> str:
    return ", ".join(f"{count} {suffix}" for suffix, count in count_by_suffix(paths).items())


def list_folders(folder: str) -> list[str]:
    """Names of the folders in a folder, hidden ones left out; a missing folder has none."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InputError(folder, f"cannot be listed ({error.strerror})", "check the folder's permissions") from error


def numeric_order(name: str) -> list[str | int]:
    """Sort key under which frame 10 follows frame 9, zero-padded or not."""
    return [int(part) if index % 2 else part for index, part in enumerate(re.split(r"(\d+)", name))]


def is_outside(name: str) -> bool:
    """Whether the name of a video leads out of the dataset's folder."""
    return os.path.isabs(name) or ".." in name.split("/")


def read_names(path: str) -> list[str]:
    """Reads the video names of a split file, one a line; blank lines count for nothing.

    Raises:
      InputError: the file cannot be read, is empty, or lists a video twice, or one outside.
    """
    remedy = "give the name of a split file (without .txt) in the dataset's folder"
    try:
        with open(path, encoding="utf-8-sig") as file:
            names = [line.strip() for line in file if line.strip()]
    except OSError as error:
        problem = f"cannot be read ({error.strerror}){missing_but_for_case(path)}"
        raise InputError(path, problem, remedy) from error
    except UnicodeDecodeError as error:
        raise InputError(path, "is not a text file", remedy) from error
    if not names:
        raise InputError(path, "lists no video", "write one video name a line")
    seen = set()
    for name in names:
        if is_outside(name):
            raise InputError(path, f"lists {name!r}, which lies outside of the dataset", "name folders inside of it")
        if name in seen:
            raise InputError(path, f"lists video {name!r} twice", "remove one of the two lines")
        seen.add(name)
    return names
