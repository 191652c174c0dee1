"""Names of files and folders of a dataset, listed and put in order."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from cffm_jax.errors import InputError


def list_files(folder: str, suffixes: Sequence[str]) -> dict[str, str]:
    """Name without suffix -> path of the folder's files with these suffixes; none without a folder.

    Raises:
      InputError: the folder cannot be listed, or two files differ in their suffix alone.
    """
    try:
        with os.scandir(folder) as entries:
            # Hidden files: some systems leave "._" companions of every image behind.
            names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise InputError(folder, f"cannot be listed ({error.strerror})", "check the folder's permissions") from error
    files: dict[str, str] = {}
    for name in names:
        suffix = next((suffix for suffix in suffixes if name.endswith(suffix)), None)
        if suffix is None:
            continue
        path, stem = os.path.join(folder, name), name.removesuffix(suffix)
        if stem in files:
            raise InputError(path, f"is there beside {os.path.basename(files[stem])}", "remove one of the two")
        files[stem] = path
    return files


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


def read_names(path: str) -> list[str]:
    """Reads the video names of a split file, one a line; blank lines count for nothing.

    Raises:
      InputError: the file cannot be read, is empty, or lists a video twice.
    """
    remedy = "give the name of a split file (without .txt) in the dataset's folder"
    try:
        with open(path, encoding="utf-8-sig") as file:
            names = [line.strip() for line in file if line.strip()]
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", remedy) from error
    except UnicodeDecodeError as error:
        raise InputError(path, "is not a text file", remedy) from error
    if not names:
        raise InputError(path, "lists no video", "write one video name a line")
    seen = set()
    for name in names:
        if name in seen:
            raise InputError(path, f"lists video {name!r} twice", "remove one of the two lines")
        seen.add(name)
    return names
