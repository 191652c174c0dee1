"""What a mask's file holds: a value a pixel, as stored, and what its palette says of the values."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from cffm_jax.config import IGNORED_LABEL
from cffm_jax.data.image_files import FileName, UnreadableFile, open_image
from cffm_jax.data.layouts.video import NO_CLASS, Coding
from cffm_jax.data.palettes import Claim, claims, rgb, values_in_use
from cffm_jax.data.pictures import grey_bits, is_png, orientation, unspread, upright
from cffm_jax.errors import InputError

_STATE = 'save it with the stated colours, or correct "colours" or add "ignored_colour" in the class file'


class MaskFile(NamedTuple):
    """A mask that has been read.

    Attributes:
      values: u8[H,W], as stored and upright.
      palette: u8[n,3], RGB; None: it is grey.
      turn: its `pictures.orientation`.
    """

    values: np.ndarray
    palette: np.ndarray | None
    turn: int | None


def read_values(path: FileName, data: bytes) -> MaskFile:
    """Reads a mask: a PNG of one grey channel of at most 8 bits, or with a palette.

    Raises:
      UnreadableFile: it is cut off, damaged, no image or too large.
      InputError: it has other pixels, or is a JPEG.
    """
    image = open_image(path, data)
    if not is_png(data):
        raise InputError(path, "is a JPEG, which changes labels", "save masks as PNG")
    try:
        values = np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        problem = "cannot be read (truncated, damaged or no image)"
        raise UnreadableFile(path, problem, "copy or download the file again") from error
    if image.mode not in ("1", "L", "P"):
        problem = f"has pixels of mode {image.mode}"
        raise InputError(path, problem, "save masks with one byte a pixel, grey (L) or palette (P)")
    turn = orientation(image, data)
    palette = _palette_of(image) if image.mode == "P" else None
    return MaskFile(upright(_as_stored(values, data), turn), palette, turn)


def _as_stored(values: np.ndarray, data: bytes) -> np.ndarray:
    """Values of a PNG as Pillow gives them -> as the file holds them, see `pictures.unspread`; of
    one bit Pillow makes truth values."""
    bits = grey_bits(data)
    return values.astype(np.uint8) if bits == 1 else unspread(values, bits)


def _palette_of(image: Image.Image) -> np.ndarray:
    """Colours u8[n,3] of an image with a palette."""
    colours = image.getpalette() or []
    return np.array(colours, np.uint8).reshape(-1, 3)


def claims_of(mask: MaskFile, coding: Coding) -> tuple[Claim, ...]:
    """What a mask says of its values, see `palettes`."""
    return claims(mask.values, mask.palette, coding.table)


def classes_of_values(path: FileName, mask: MaskFile, coding: Coding) -> np.ndarray:
    """The class of each value, u8[256]: of ``coding``, or by the palette's colours.

    Programs that make PNGs smaller put a palette in another order, and the values with it. So where
    the classes' colours are stated, and the values in use do not have those, the colours decide.

    Raises:
      InputError: a colour in use is none of the stated ones, or leaves open which class it is; or
        nothing is stated, and the palettes of masks that were read before contradict this one.
    """
    if coding.palettes is not None:
        coding.palettes.require(path, claims_of(mask, coding))
    table = np.frombuffer(coding.table, np.uint8)
    if mask.palette is None or not coding.colours:
        return table
    if _all_in_place(mask.palette, coding):
        return table
    used = values_in_use(mask.values)
    stated = _Stated(coding, mask.palette)
    if not any(stated.moved(value) for value in used):
        return table
    table = np.full(256, NO_CLASS, np.uint8)
    homes: dict[int, int] = {}
    for value in used:
        label = stated.label(path, value)
        if label != IGNORED_LABEL and label in homes:
            problem = f"has entries {homes[label]} and {value} of one colour in a palette out of the stated order"
            raise InputError(path, problem, _STATE)
        homes[label] = value
        table[value] = label
    return table


def claims_of_file(path: FileName, data: bytes, coding: Coding) -> tuple[Claim, ...]:
    """The claims of a mask's file; none of one that cannot be used, which others say."""
    try:
        return claims_of(read_values(path, data), coding)
    except InputError:
        return ()


def _all_in_place(palette: np.ndarray, coding: Coding) -> bool:
    """Whether a palette has the stated colours as they are stated: no pixel need be looked at."""
    table, colours = np.frombuffer(coding.table, np.uint8), np.frombuffer(coding.colours, np.uint8).reshape(-1, 3)
    there = np.full((256, 3), -1)
    there[: len(palette)] = palette
    classes = np.flatnonzero(table < len(colours))
    ignored = np.frombuffer(coding.ignored_colour, np.uint8)
    in_place = (there[classes] == colours[table[classes]]).all()
    return bool(in_place and (not len(ignored) or (there[table == IGNORED_LABEL] == ignored).all()))


class _Stated:
    """Stated colours beside those of a palette."""

    def __init__(self, coding: Coding, palette: np.ndarray):
        self._labels = coding.table
        self._colours = [coding.colours[i : i + 3] for i in range(0, len(coding.colours), 3)]
        self._ignored = coding.ignored_colour
        self._palette = [row.tobytes() for row in palette]

    def _colour(self, value: int) -> bytes:
        """b"" for a value without an entry."""
        return self._palette[value] if value < len(self._palette) else b""

    def moved(self, value: int) -> bool:
        """Whether the colour of a value is another's."""
        colour, label = self._colour(value), self._labels[value]
        if label < len(self._colours):
            return colour != self._colours[label]
        if label == IGNORED_LABEL and self._ignored:
            return colour != self._ignored
        if self._ignored and colour == self._ignored:
            return True
        # Masks often have black for ignored pixels and for a class: no harm while that is in its
        # place.
        places = [self._labels.find(k) for k, other in enumerate(self._colours) if other == colour]
        return bool(places) and not any(self._colour(place) == colour for place in places)

    def label(self, path: FileName, value: int) -> int:
        """The class of a value by its colour."""
        colour, ignored = self._colour(value), self._labels[value] == IGNORED_LABEL
        if self._ignored and colour == self._ignored:
            return IGNORED_LABEL
        classes = [k for k, other in enumerate(self._colours) if other == colour]
        if len(classes) == 1 and (self._ignored or not ignored):
            return classes[0]
        if not classes and ignored and not self._ignored:
            return IGNORED_LABEL
        shown = rgb(colour) if colour else "missing"
        what = "none of the stated colours"
        if classes:
            what = f"the colour of the classes {', '.join(map(str, classes))}" if classes[1:] else "a class's colour"
            what += ", and the ignored label" if ignored else ""
        problem = f"has a palette out of the stated order, in which entry {value} is {shown}, {what}"
        raise InputError(path, problem, _STATE)


def to_labels(values: np.ndarray, table: np.ndarray, num_classes: int) -> np.ndarray:
    """Labels u8[H,W] of values: classes, 255, and `NO_CLASS` for a class that there is not."""
    table = np.where((table >= num_classes) & (table != IGNORED_LABEL), np.uint8(NO_CLASS), table)
    return cv2.LUT(values, table)
