"""What is imported: the files of a folder, and what their names say."""

from __future__ import annotations

import functools
import json
import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from cffm_jax.data.layouts.folder import LAYOUT
from cffm_jax.errors import InputError, first_few

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_OF_FORMATS = re.compile(r"images?|imgs?|jpegimages|frames|default", re.IGNORECASE)
_ELSEWHERE = re.compile(r"/|[a-z][a-z0-9+.-]*:", re.IGNORECASE)
"""Begins an absolute path, or an address."""
UPLOAD = re.compile(r"^([0-9a-f]{8})-")
"""What Label Studio puts before the name of a file that is uploaded."""


class Source:
    """The files below a folder, hidden ones left out, folders that are links followed; names are
    relative to it, with slashes.

    Raises:
      InputError: it is no folder that can be listed, or a link in it leads around in a circle.
    """

    def __init__(self, root: str):
        self.root = Path(root)
        if not self.root.is_dir():
            remedy = "name the folder that holds the labels and their images (unpack an archive first)"
            raise InputError(root, "is no folder", remedy)

        def refuse(error: OSError) -> None:
            raise InputError(error.filename, f"cannot be listed ({error.strerror})", "check its permissions")

        found = []
        for folder, below, names in os.walk(self.root, onerror=refuse, followlinks=True):
            below[:] = sorted(name for name in below if not name.startswith("."))
            self._require_no_circle(Path(folder), below)
            place = Path(folder).relative_to(self.root).as_posix()
            found += [posixpath.normpath(posixpath.join(place, name)) for name in names if not name.startswith(".")]
        self.files = sorted(found)
        self._there = set(self.files)
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for file in self.files:
            self._by_name[posixpath.basename(file)].append(file)

    def _require_no_circle(self, folder: Path, below: Iterable[str]) -> None:
        """InputError for a link that leads to a folder that it lies in, by itself or by others."""
        for link in (folder / name for name in below if (folder / name).is_symlink()):
            passed = [folder, *folder.parents[: len(folder.parts) - len(self.root.parts)]]
            if any(each.resolve().is_relative_to(link.resolve()) for each in passed):
                raise InputError(link, "is a link to a folder that it lies in", "remove the link")

    def path(self, file: str) -> Path:
        return self.root / file

    def having(self, *suffixes: str) -> list[str]:
        """The files with one of these suffixes, in capitals or not."""
        return [file for file in self.files if file.lower().endswith(suffixes)]

    @functools.cached_property
    def images(self) -> list[str]:
        """All files that can be frames."""
        return self.having(*LAYOUT.suffixes)

    @functools.cached_property
    def _pictured(self) -> set[str]:
        """The folders that hold images."""
        return {posixpath.dirname(image) for image in self.images}

    def by_stem(self, files: Iterable[str]) -> dict[str, str]:
        """File without suffix -> file. InputError: two differ in their suffix alone."""
        found: dict[str, str] = {}
        for file in files:
            other = found.setdefault(posixpath.splitext(file)[0], file)
            if other != file:
                raise InputError(
                    self.path(file), f"is there beside {posixpath.basename(other)}", "remove one of the two"
                )
        return found

    def find(self, where: str, said: str, near: str = "", within: str = "") -> str | None:
        """The file that a label file means, None if it is not there.

        It is the one of that path from ``near`` on; else the one whose path ends in most of it.
        Leading folders of another computer (of an absolute path, an address, a path out of the
        source) count for nothing, nor does what follows a "?", such as a token. Others do: a path
        that names a video means no other's image.

        Args:
          where: the label file.
          said: a path or an address, in slashes of either kind.
          near: the folder that a relative path starts from.
          within: of several, the one with a folder of this name is meant.

        Raises:
          InputError: there are several.
        """
        tried = (said, unquote(said), without_query(said), unquote(without_query(said)))
        for path in dict.fromkeys(each.replace("\\", "/") for each in tried):
            straight = posixpath.normpath(posixpath.join(near, path))
            if straight in self._there:
                return straight
            parts = [part for part in path.split("/") if part not in ("", ".", "..")]
            named = self._by_name.get(parts[-1], []) if parts else []
            elsewhere = bool(_ELSEWHERE.match(path)) or straight.startswith("../")
            if near in self._pictured and not elsewhere:
                parts = straight.split("/")
            for count in range(len(parts), 0, -1):
                found = [file for file in named if file.split("/")[-count:] == parts[-count:]]
                if not elsewhere and not all(_may_be(parts[:-count], file.split("/")[:-count]) for file in found):
                    break
                if len(found) > 1 and within:
                    found = [file for file in found if within in file.split("/")[:-1]] or found
                if len(found) > 1:
                    problem = f"names the image {said}, which is there {len(found)} times ({first_few(found, 2)})"
                    raise InputError(self.path(where), problem, "move apart what does not belong together")
                if found:
                    return found[0]
        return None

    def require_all(self, where: str, missing: Sequence[str], of: int) -> None:
        """InputError if images that a label file names are missing."""
        if missing:
            problem = f"names {of} images, of which {len(missing)} are not there, such as {missing[0]}"
            raise InputError(self.path(where), problem, f"copy the images into {self.root}")

    def text(self, file: str) -> str:
        """The text of a file, as of `read_text`."""
        return read_text(self.path(file))

    def json(self, file: str) -> Any:
        """The contents of a JSON file. InputError: it cannot be read."""
        try:
            return json.loads(self.text(file))
        except (ValueError, RecursionError) as error:
            raise InputError(self.path(file), f"is no JSON ({error})", "export it again") from error

    @functools.cached_property
    def json_kinds(self) -> dict[str, str]:
        """JSON file -> name of the format whose keys it holds, "" for none: they are looked for as
        they are written, as a file may be large."""
        keys = {
            "coco": (b'"images"', b'"annotations"', b'"categories"'),
            "labelme": (b'"shapes"', b'"imagePath"'),
            "label-studio": (b'"annotations"', b'"result"', b'"data"'),
            "label-studio-min": (b'"annotation_id"', b'labels"'),
        }
        kinds = {}
        for file in self.having(".json"):
            data = _in_utf8(bytes_of(self.path(file)))
            kinds[file] = next((kind for kind, each in keys.items() if all(key in data for key in each)), "")
        return kinds


def bytes_of(path: Path) -> bytes:
    """The bytes of a file of labels, of any size. InputError: it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", "check its permissions") from error


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 or UTF-32 as its first bytes show. InputError: it
    cannot be read, or is in another encoding."""
    try:
        return _in_utf8(bytes_of(path)).decode("utf-8-sig")
    except ValueError as error:
        problem = f"is no text in UTF-8 ({' '.join(str(error).split())})"
        raise InputError(path, problem, "save it in UTF-8, or export it again") from error


def _in_utf8(data: bytes) -> bytes:
    """Text in UTF-16 or UTF-32, told by its mark or zero bytes as Python's JSON reader does, in
    UTF-8; other bytes, and what turns out to be no such text, as they are."""
    encoding = json.detect_encoding(data)
    try:
        return data if encoding.startswith("utf-8") else data.decode(encoding).encode()
    except UnicodeError:
        return data


def without_query(said: str) -> str:
    """A path or an address without what follows a "?", such as a token, or a "#".

    Examples:
      >>> without_query("https://host/a_1.png?token=b/c")
      'https://host/a_1.png'
    """
    return re.split(r"[?#]", said, maxsplit=1)[0]


def is_of_format(folder: str) -> bool:
    """Whether a folder has a name that formats give to that of their images."""
    return bool(_OF_FORMATS.fullmatch(folder))


def _may_be(said: Sequence[str], there: Sequence[str]) -> bool:
    """Whether a path of the folders ``said`` can mean an image in those that are ``there``: but
    for folders of formats they are the same, or one names none."""
    own, others = ([part for part in parts if not is_of_format(part)] for parts in (said, there))
    return not own or not others or own == others


def split_of(*words: str) -> str:
    """The split that the first of some names has among its words, "" for none.

    Examples:
      >>> split_of("instances_train2017"), split_of("_annotations.coco", "valid"), split_of("all")
      ('train', 'val', '')
    """
    parts = (part for word in words for part in re.split(r"[^a-z]+", word.lower()))
    return next((_SPLITS[part] for part in parts if part in _SPLITS), "")


def is_split(folder: str) -> bool:
    """Whether a folder has the name of a split, which may end in a year: val, valid, val2017; not
    test1 and test2, which may be videos."""
    return re.sub(r"(19|20)\d\d$", "", folder).lower() in _SPLITS


def split_of_folders(file: str) -> str:
    """The split that one of a file's folders names, the outermost first, "" for none."""
    return next((split_of(part) for part in file.split("/")[:-1] if is_split(part)), "")
