"""What is imported: the files of a folder, and the interface of a format that reads labels in it.

A format is a file of this folder with one object, ``FORMAT``, and a row in ``command.FORMATS``.
"""

from __future__ import annotations

import functools
import json
import os
import posixpath
import re
import string
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np

from cffm_jax.config import IGNORED_LABEL
from cffm_jax.data.image_files import read_bytes
from cffm_jax.data.layouts.folder import LAYOUT
from cffm_jax.errors import InputError, first_few

NO_LABEL = IGNORED_LABEL
"""Stands in `Drawn.labels` for a pixel that nothing labels."""
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


class Drawn(NamedTuple):
    """A mask.

    Attributes:
      labels: u8[H,W], positions in `Labels.names`, ``NO_LABEL`` where nothing is labelled.
      overlap: pixels that several classes were drawn at.
    """

    labels: np.ndarray
    overlap: int = 0


class Frame(NamedTuple):
    """An image and its labels.

    Attributes:
      file: path of the image, relative to the source, which names its video and its place therein.
      split: train, val or test; "": the source states none; None: no file lists the image, so that
        it goes where the others of its video go.
      draw: from height and width of the frame to its mask; None: it has no label.
      where: the file that its labels are read from.
      data: gives the bytes of an image that is in another file.
    """

    file: str
    split: str | None
    draw: Callable[[tuple[int, int]], Drawn] | None = None
    where: str = ""
    data: Callable[[], bytes] | None = None


class Labels(NamedTuple):
    """What a format has read.

    Attributes:
      names: of the classes.
      order: in words, the order they are in.
      frames: all images, in any order.
      colours: u8[K,3], RGB; None: the format has none.
      masks: the files of masks, relative to the source.
      over: in words, which of overlapping labels decides, "" where none can.
      notes: lines to tell.
    """

    names: tuple[str, ...]
    order: str
    frames: Sequence[Frame]
    colours: np.ndarray | None = None
    masks: Collection[str] = ()
    over: str = ""
    notes: tuple[str, ...] = ()


class Format(NamedTuple):
    """A way to store labels.

    Attributes:
      name: the value of ``--format``.
      title: in words.
      recognise: whether a source holds such labels, by its content.
      read: from a source and the table of ``--colours`` ("" for none) to its labels; no image is
        opened. InputError: something is missing, or would have to be guessed.
      table: whether it can use ``--colours``.
      whole: whether a mask states what every pixel is, so that there is nothing without a label.
    """

    name: str
    title: str
    recognise: Callable[[Source], bool]
    read: Callable[[Source, str], Labels]
    table: bool = False
    whole: bool = False


class Canvas:
    """A mask in the making: what is drawn later lies over what was drawn before."""

    def __init__(self, size: tuple[int, int]):
        self._labels = np.full(size, NO_LABEL, np.uint8)
        self._overlap = np.zeros(size, bool)

    def draw(self, where: np.ndarray, label: int) -> None:
        """Gives the pixels ``where``, bool[H,W], a label."""
        self._overlap |= where & (self._labels != NO_LABEL) & (self._labels != label)
        self._labels[where] = label

    @property
    def drawn(self) -> Drawn:
        return Drawn(self._labels, int(self._overlap.sum()))


class Source:
    """The files below a folder, hidden ones left out; names are relative to it, with slashes.

    Raises:
      InputError: it is no folder that can be listed.
    """

    def __init__(self, root: str):
        self.root = Path(root)
        if not self.root.is_dir():
            remedy = "name the folder that holds the labels and their images (unpack an archive first)"
            raise InputError(root, "is no folder", remedy)

        def refuse(error: OSError) -> None:
            raise InputError(error.filename, f"cannot be listed ({error.strerror})", "check its permissions")

        found = []
        for folder, below, names in os.walk(self.root, onerror=refuse):
            below[:] = sorted(name for name in below if not name.startswith("."))
            place = Path(folder).relative_to(self.root).as_posix()
            found += [posixpath.normpath(posixpath.join(place, name)) for name in names if not name.startswith(".")]
        self.files = sorted(found)
        self._there = set(self.files)
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for file in self.files:
            self._by_name[posixpath.basename(file)].append(file)

    def path(self, file: str) -> Path:
        return self.root / file

    def having(self, *suffixes: str) -> list[str]:
        """The files with one of these suffixes, in capitals or not."""
        return [file for file in self.files if file.lower().endswith(suffixes)]

    @functools.cached_property
    def images(self) -> list[str]:
        """All files that can be frames."""
        return self.having(*LAYOUT.suffixes)

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

        Args:
          where: the label file.
          said: a path or an address, in slashes of either kind.
          near: the folder that a relative path starts from.
          within: of several, the one with a folder of this name is meant.

        Raises:
          InputError: there are several.
        """
        for path in dict.fromkeys((said.replace("\\", "/"), unquote(said).replace("\\", "/"))):
            straight = posixpath.normpath(posixpath.join(near, path))
            if straight in self._there:
                return straight
            parts = [part for part in path.split("/") if part not in ("", ".", "..")]
            named = self._by_name.get(parts[-1], []) if parts else []
            for count in range(len(parts), 0, -1):
                found = [file for file in named if file.split("/")[-count:] == parts[-count:]]
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
        """The text of a file in UTF-8. InputError: it cannot be read."""
        try:
            return self.path(file).read_text(encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            problem = f"cannot be read ({' '.join(str(error).split())})"
            raise InputError(self.path(file), problem, "export it again") from error

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
        }
        kinds = {}
        for file in self.having(".json"):
            data = read_json_bytes(self.path(file))
            kinds[file] = next((kind for kind, each in keys.items() if all(key in data for key in each)), "")
        return kinds

    def unlisted(self, frames: Iterable[Frame]) -> list[Frame]:
        """The images that no label file names, but whose names differ in their number alone from
        one that is named: frames of the same videos without labels."""
        splits: dict[str, set[str | None]] = defaultdict(set)
        listed = set()
        for frame in frames:
            stem = posixpath.splitext(frame.file)[0]
            listed.add(stem)
            splits[stem.rstrip(string.digits)].add(frame.split)
        found = []
        for image in self.images:
            stem = posixpath.splitext(image)[0]
            each = splits.get(stem.rstrip(string.digits))
            if each and stem not in listed:
                found.append(Frame(image, next(iter(each)) if len(each) == 1 else None))
        return found


def read_json_bytes(path: Path) -> bytes:
    """The bytes of a JSON file, of any size. InputError: it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", "check its permissions") from error


def image_bytes(source: Source, frame: Frame) -> bytes:
    """The bytes of a frame's image. InputError: it cannot be read, or is larger than allowed."""
    return frame.data() if frame.data else read_bytes(source.path(frame.file))


def split_of(*words: str) -> str:
    """The split that the first of some names has among its words, "" for none.

    Example:
      >>> split_of("instances_train2017"), split_of("_annotations.coco", "valid"), split_of("all")
      ('train', 'val', '')
    """
    parts = (part for word in words for part in re.split(r"[^a-z]+", word.lower()))
    return next((_SPLITS[part] for part in parts if part in _SPLITS), "")


def is_split(folder: str) -> bool:
    """Whether a folder has the name of a split, which may end in a number: val, valid, val2017."""
    return folder.rstrip(string.digits).lower() in _SPLITS


def split_of_folders(file: str) -> str:
    """The split that one of a file's folders names, the outermost first, "" for none."""
    return next((split_of(part) for part in file.split("/")[:-1] if is_split(part)), "")
