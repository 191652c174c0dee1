"""Palettes of a dataset's masks beside each other, where nothing states the classes' colours.

There the indices alone say what a pixel is. Programs that make PNGs smaller put a palette in
another order, and the indices with it: masks that disagree on a colour's index were not all left as
they were made, and which were, nothing tells.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from cffm_jax.config import IGNORED_LABEL
from cffm_jax.data.image_files import FileName
from cffm_jax.drawing import palette as drawing
from cffm_jax.errors import InputError

_REMEDY = (
    "save all masks with one palette, or, where a colour is the same class in all of them, "
    'state the classes\' "colours" in classes.json (in place of classes.txt), which then decide'
)
_MEETING = threading.Lock()


class Claim(NamedTuple):
    """What a mask says of a value that it holds.

    Attributes:
      value: as stored.
      ignored: whether such pixels do not count, whatever their colour.
      colour: three bytes, its palette's; b"" of a grey mask.
      twins: all values that its palette has in this colour.
    """

    value: int
    ignored: bool
    colour: bytes
    twins: tuple[int, ...] = ()


def claims(values: np.ndarray, palette: np.ndarray | None, table: bytes) -> tuple[Claim, ...]:
    """The claims of a mask's values, in order; of a palette without an entry for one, none.

    Args:
      values: u8[H,W], as stored.
      palette: u8[n,3], RGB; None: it is grey.
      table: class of each value, as of ``Coding``.
    """
    used = values_in_use(values)
    ignored = [table[value] == IGNORED_LABEL for value in used]
    if palette is None:
        return tuple(Claim(value, skip, b"") for value, skip in zip(used, ignored))
    there = [(value, skip, palette[value]) for value, skip in zip(used, ignored) if value < len(palette)]
    twins = [tuple(np.flatnonzero((palette == colour).all(1)).tolist()) for *_, colour in there]
    return tuple(Claim(v, skip, colour.tobytes(), same) for (v, skip, colour), same in zip(there, twins))


def values_in_use(values: np.ndarray) -> list[int]:
    """The values that occur in a mask, in order."""
    counts = cv2.calcHist([values], [0], None, [256], [0, 256])
    return np.flatnonzero(counts).tolist()


class Palettes:
    """The claims of the masks that a process has met so far: others have a copy of their own."""

    def __init__(self) -> None:
        self._by_value: dict[int, dict[Claim, str]] = {}
        self._by_colour: dict[bytes, dict[Claim, str]] = {}
        self._grey: dict[int, str] = {}
        self._reordered: dict[int, tuple[str, str]] = {}
        """Value -> a mask that has its colour of a known palette at another value; in words."""

    def meet(self, file: FileName, found: Sequence[Claim]) -> tuple[str, str, str] | None:
        """Adds the claims of a mask; if they contradict earlier ones: its file, problem, remedy."""
        with _MEETING:  # Threads read masks.
            return self._meet(file, found)

    def _meet(self, file: FileName, found: Sequence[Claim]) -> tuple[str, str, str] | None:
        said = []
        for claim in found:
            if claim.colour:
                said += self._contradictions(claim)
                self._by_value.setdefault(claim.value, {}).setdefault(claim, str(file))
                self._by_colour.setdefault(claim.colour, {}).setdefault(claim, str(file))
            elif not claim.ignored:
                self._grey.setdefault(claim.value, str(file))
        for home, words in _reordered(found).items():
            self._reordered.setdefault(home, (str(file), words))
        if said:
            more = f", and so on for {len(said)} values" if len(said) > 1 else ""
            return str(file), said[0] + more, _REMEDY
        for home in sorted(self._grey.keys() & self._reordered.keys()):
            other, words = self._reordered[home]
            return other, f"{words}, but {self._grey[home]} is grey", _REMEDY
        return None

    def require(self, path: FileName, found: Sequence[Claim]) -> None:
        """InputError if the claims of a mask contradict those met before."""
        contradiction = self.meet(path, found)
        if contradiction:
            raise InputError(*contradiction)

    def _contradictions(self, claim: Claim) -> list[str]:
        """What an earlier mask says otherwise, in words: of a value, of which the first counts."""
        for other, file in self._by_value.get(claim.value, {}).items():
            if other.colour != claim.colour and not claim.ignored:
                here, there = rgb(claim.colour), rgb(other.colour)
                return [f"has value {claim.value} as {here} in its palette, but {file} as {there}"]
        for other, file in self._by_colour.get(claim.colour, {}).items():
            if claim.value not in other.twins and other.value not in claim.twins:
                return [f"has {rgb(claim.colour)} as value {claim.value} of its palette, but {file} as {other.value}"]
        return []


def rgb(colour: bytes) -> str:
    """A colour's three bytes in words."""
    return f"({', '.join(map(str, colour))})"


def _reordered(found: Sequence[Claim]) -> dict[int, str]:
    """Of a mask whose palette is a known one in another order: the values whose colours lie at
    others, and in words where."""
    coloured = [claim for claim in found if claim.colour and not claim.ignored]
    for name, known in _known().items() if len(coloured) > 1 else ():
        if all(claim.colour in known for claim in coloured):
            homes = {known[claim.colour]: claim for claim in coloured if known[claim.colour] not in claim.twins}
            return {
                home: f"has value {claim.value} as {rgb(claim.colour)} in its palette, {name} {home}"
                for home, claim in homes.items()
            }
    return {}


@functools.cache
def _known() -> dict[str, dict[bytes, int]]:
    """Palettes whose order is known, in words: colour -> value."""
    values = np.arange(256)
    # Bits 3i, 3i+1, 3i+2 of a value are bit 7-i of red, green and blue (PASCAL VOC's development
    # kit, VOClabelcolormap).
    voc = np.sum([(values[:, None] >> (3 * i + np.arange(3)) & 1) << 7 - i for i in range(8)], axis=0)
    orders = {"the grey of": np.repeat(values[:, None], 3, 1), "PASCAL VOC's colour of": voc}
    orders["this package's colour of"] = drawing.palette(IGNORED_LABEL)
    return {
        name: {colour.tobytes(): i for i, colour in reversed([*enumerate(order.astype(np.uint8))])}
        for name, order in orders.items()
    }
