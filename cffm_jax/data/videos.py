"""What every layout of a dataset becomes: videos, the masks that there are of their frames, and what these hold."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Sequence

import numpy as np

from cffm_jax.config import IGNORED_LABEL
from cffm_jax.data import clips
from cffm_jax.errors import InputError

NO_CLASS = 254
"""Stands for a byte of a mask that no class has: the largest class is 253, 255 is ignored."""


@dataclasses.dataclass(frozen=True)
class Coding:
    """What the bytes of a dataset's masks mean.

    Attributes:
      table: for each of the 256 bytes its class, 255 where it is ignored, `NO_CLASS` where it means nothing.
      says: the bytes of the classes in words, to be formatted with ``classes``, their number, and ``last``, one less.
    """

    table: bytes
    says: str

    @classmethod
    def of(cls, classes: Iterable[int], ignored: Iterable[int], says: str) -> Coding:
        """From the class of each byte from 0 on; bytes beyond mean nothing."""
        table = np.full(256, NO_CLASS, np.uint8)
        known = np.fromiter(classes, np.uint8)
        table[: len(known)] = known
        table[list(ignored)] = IGNORED_LABEL
        return cls(table.tobytes(), says)

    @property
    def num_classes(self) -> int:
        """How many classes there can be."""
        return max(label for label in self.table if label < NO_CLASS) + 1

    def words(self, num_classes: int) -> str:
        """What the bytes of so many classes are, in words."""
        return self.says.format(classes=num_classes, last=num_classes - 1)


VSPW = Coding.of([IGNORED_LABEL, *range(254)], (0, IGNORED_LABEL), "labels 1..{classes}")
"""1..K are the classes 0..K-1; 0 and 255 are ignored."""


def plain_coding(ignored: int = IGNORED_LABEL) -> Coding:
    """0..K-1 are the classes themselves."""
    return Coding.of(range(NO_CLASS), (ignored,), "labels 0..{last}, ignored: " + str(ignored))


@dataclasses.dataclass(frozen=True)
class Video:
    """One video of a split.

    Attributes:
      name: unique in the split.
      frames: files, in temporal order.
      masks: one for each frame, None where a frame has none; or none at all.
      coding: what the masks' bytes mean.
      numbers: numbers of the frames where references go by them, as in Cityscapes; () where frames are counted.
    """

    name: str
    frames: tuple[str, ...]
    masks: tuple[str | None, ...]
    coding: Coding = VSPW
    numbers: tuple[int, ...] = ()

    @property
    def sparse(self) -> bool:
        """Whether there are masks, but not of every frame."""
        return None in self.masks

    @property
    def targets(self) -> tuple[int, ...]:
        """Indices of the frames that have a mask; of all frames where there are no masks at all."""
        return tuple(i for i in range(len(self.frames)) if not self.masks or self.masks[i] is not None)

    def references(self, target: int, offsets: Sequence[int]) -> tuple[int, ...] | None:
        """Indices of the references of a frame, oldest first; None for a first frame that has too few before it.

        Raises:
          InputError: references go by numbers, and one is missing both before and after the target.
        """
        if not self.numbers:
            return clips.reference_indices(target, offsets)
        return self._all_there(clips.numbered_references(target, self.numbers, offsets), target, offsets)

    def training_clip(self, rng: np.random.Generator, offsets: Sequence[int], reverse: float) -> tuple[int, ...]:
        """Draws a clip with a target that has a mask: the references, oldest first, then the target.

        Raises:
          InputError: as for `references`.
        """
        if not self.numbers:
            return clips.training_clip(len(self.frames), rng, offsets, reverse, self.targets)
        backwards = rng.random() < reverse
        target = self.targets[int(rng.integers(len(self.targets)))]
        found = clips.numbered_references(target, self.numbers, offsets, backwards)
        return (*self._all_there(found, target, offsets), target)

    def _all_there(
        self, found: Sequence[int | None], target: int, offsets: Sequence[int]
    ) -> tuple[int, ...]:  # fmt: skip
        for index, offset in zip(found, offsets, strict=True):
            if index is None:
                number = self.numbers[target]
                problem = f"neither frame {number - offset} nor frame {number + offset} of its snippet is there"
                raise InputError(self.frames[target], problem, f"add one of them: it is the reference t-{offset}")
        return tuple(found)


def list_files(folder: str, suffixes: Sequence[str]) -> dict[str, str]:
    """Maps name without suffix -> path, for the folder's files with one of the suffixes; a missing folder has none.

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
    found: dict[str, str] = {}
    for name in names:
        suffix = next((suffix for suffix in suffixes if name.endswith(suffix)), None)
        if suffix is None:
            continue
        path, stem = os.path.join(folder, name), name.removesuffix(suffix)
        if stem in found:
            raise InputError(path, f"is there beside {os.path.basename(found[stem])}", "remove one of the two")
        found[stem] = path
    return found


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
