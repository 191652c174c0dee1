"""Videos of a dataset as every layout lists them: frames, their masks and the masks' coding."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from cffm_jax.config import IGNORED_LABEL
from cffm_jax.data import clips
from cffm_jax.data.image_files import FileName
from cffm_jax.data.palettes import Palettes
from cffm_jax.errors import InputError

NO_CLASS = 254
"""Stands for a byte of a mask that no class has: the largest class is 253, 255 is ignored."""


@dataclasses.dataclass(frozen=True)
class Coding:
    """The meaning of the bytes of a dataset's masks.

    Attributes:
      table: class of each of the 256 bytes; 255: ignored, `NO_CLASS`: the byte means nothing.
      says: classes' bytes in words, a format of ``classes``, their number, and ``last``, one less.
      colours: of the classes, three bytes each, where the dataset states them: palettes out of that
        order are read by colour; else the bytes alone count, whatever the palette.
      ignored_colour: three bytes, that of ignored pixels, where it is stated.
      palettes: those of the dataset's masks that were read so far, which must not contradict each
        other; None where colours are stated, or the layout says what the bytes mean.
    """

    table: bytes
    says: str
    colours: bytes = b""
    ignored_colour: bytes = b""
    palettes: Palettes | None = dataclasses.field(default=None, compare=False, repr=False)

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
        """The largest possible number of classes."""
        return max(label for label in self.table if label < NO_CLASS) + 1

    def byte_of(self, label: int) -> int | None:
        """A mask's byte for a class, the lowest of several; None if there is none."""
        byte = self.table.find(bytes([label]))
        return None if byte < 0 else byte

    def words(self, num_classes: int) -> str:
        """Names the bytes of so many classes in words."""
        return self.says.format(classes=num_classes, last=num_classes - 1)


def plain_coding(ignored: int = IGNORED_LABEL) -> Coding:
    """0..K-1 are the classes themselves."""
    return Coding.of(range(NO_CLASS), (ignored,), "labels 0..{last}, ignored: " + str(ignored))


@dataclasses.dataclass(frozen=True)
class Video:
    """One video of a split.

    Attributes:
      name: unique in the split.
      frames: files, in temporal order: paths, or in records `records.RecordedFile`.
      masks: one for each frame, None where a frame has none; or none at all.
      coding: what the masks' bytes mean.
      numbers: of the frames where references go by them (Cityscapes); () where frames are counted.
      passed_over: what else lies in its folders, neither frames nor masks.
    """

    name: str
    frames: tuple[FileName, ...]
    masks: tuple[FileName | None, ...]
    coding: Coding
    numbers: tuple[int, ...] = ()
    passed_over: tuple[str, ...] = dataclasses.field(default=(), compare=False)

    @property
    def sparse(self) -> bool:
        """Whether there are masks, but not of every frame."""
        return None in self.masks

    @property
    def targets(self) -> tuple[int, ...]:
        """Indices of the frames that have a mask; of all frames where there are no masks at all."""
        return tuple(i for i in range(len(self.frames)) if not self.masks or self.masks[i] is not None)

    def mask(self, target: int) -> FileName:
        """The mask of a frame that has one."""
        mask = self.masks[target]
        assert mask is not None, f"frame {target} of {self.name} is no target"
        return mask

    def references(self, target: int, offsets: Sequence[int], following: bool = False) -> tuple[int, ...] | None:
        """Indices of a frame's references, oldest first; None where too few frames precede it.
        With ``following`` those after it, the farthest first, while there are such.

        Raises:
          InputError: references go by numbers, and one is missing both before and after the target.
        """
        if not self.numbers:
            return clips.evaluation_indices(target, len(self.frames), offsets, following)
        indices = clips.numbered_references(target, self.numbers, offsets, backwards=following)
        return self._all_there(indices, target, offsets)

    def training_clip(self, rng: np.random.Generator, offsets: Sequence[int], reverse: float) -> tuple[int, ...]:
        """Draws a clip whose target has a mask: the references, oldest first, then the target.

        Raises:
          InputError: as for `references`.
        """
        if not self.numbers:
            return clips.training_clip(len(self.frames), rng, offsets, reverse, self.targets)
        backwards = rng.random() < reverse
        target = self.targets[int(rng.integers(len(self.targets)))]
        indices = clips.numbered_references(target, self.numbers, offsets, backwards)
        return (*self._all_there(indices, target, offsets), target)

    def _all_there(
        self, indices: Sequence[int | None], target: int, offsets: Sequence[int]
    ) -> tuple[int, ...]:  # fmt: skip
        there = []
        for index, offset in zip(indices, offsets, strict=True):
            if index is None:
                number = self.numbers[target]
                problem = f"neither frame {number - offset} nor frame {number + offset} of its snippet is there"
                raise InputError(self.frames[target], problem, f"add one of them: it is the reference t-{offset}")
            there.append(index)
        return tuple(there)
