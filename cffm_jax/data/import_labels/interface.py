"""The interface of a format of labels, and what several of them use.

A format is a file of this folder with one object, ``FORMAT``, and a row in ``command.FORMATS``.
"""

from __future__ import annotations

import math
import posixpath
import string
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cffm_jax.config import IGNORED_LABEL
from cffm_jax.data.image_files import read_bytes
from cffm_jax.data.import_labels.source import Source
from cffm_jax.errors import InputError

NO_LABEL = IGNORED_LABEL
"""Stands in `Drawn.labels` for a pixel that nothing labels."""


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
      video: name of its video, where the format knows it, and not its path alone.
    """

    file: str
    split: str | None
    draw: Callable[[tuple[int, int]], Drawn] | None = None
    where: str = ""
    data: Callable[[], bytes] | None = None
    video: str = ""


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
      training: options of ``train.py`` that suit what is imported.
    """

    name: str
    title: str
    recognise: Callable[[Source], bool]
    read: Callable[[Source, str], Labels]
    table: bool = False
    whole: bool = False
    training: str = "--config finetune --init.encoder mit_b1.pth --workdir runs/own"


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


def unlisted(source: Source, frames: Iterable[Frame]) -> list[Frame]:
    """The images that no label file names, but whose names differ in their number alone from
    one that is named: frames of the same videos without labels."""
    splits: dict[str, set[str | None]] = defaultdict(set)
    listed = set()
    for frame in frames:
        stem = posixpath.splitext(frame.file)[0]
        listed.add(stem)
        splits[stem.rstrip(string.digits)].add(frame.split)
    found = []
    for image in source.images:
        stem = posixpath.splitext(image)[0]
        each = splits.get(stem.rstrip(string.digits))
        if each and stem not in listed:
            found.append(Frame(image, next(iter(each)) if len(each) == 1 else None))
    return found


def image_bytes(source: Source, frame: Frame) -> bytes:
    """The bytes of a frame's image. InputError: it cannot be read, or is larger than allowed."""
    return frame.data() if frame.data else read_bytes(source.path(frame.file))


def require_size(path: Path, what: str, said: tuple[int, int], size: tuple[int, int]) -> None:
    """InputError if a label file says another height and width of an image than it has."""
    if said != size:
        problem = f"says that {what} is {said[1]}x{said[0]}, and it is {size[1]}x{size[0]}"
        raise InputError(path, problem, "import the images that were annotated, as they were")


def require_near(points: Sequence[Sequence[float]], size: tuple[int, int]) -> None:
    """ValueError for a point (x, y) farther outside of an image than it is wide or high: filling
    would take any time and room."""
    for x, y in points:
        within = math.isfinite(x) and math.isfinite(y)
        if not within or not -size[1] <= x <= 2 * size[1] or not -size[0] <= y <= 2 * size[0]:
            raise ValueError(f"the point ({x:g}, {y:g}) is far outside of the image of {size[1]}x{size[0]}")
