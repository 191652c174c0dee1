"""Tables of classes' colours, and masks that are coloured by them."""

from __future__ import annotations

import dataclasses
import functools
import re
from pathlib import Path

import numpy as np
from PIL import Image

from cffm_jax.data.image_files import FileName, UnreadableFile, open_image, read_bytes
from cffm_jax.data.import_labels.interface import NO_LABEL, Drawn
from cffm_jax.data.import_labels.source import read_text
from cffm_jax.data.layouts.class_file import first_double
from cffm_jax.data.palettes import rgb
from cffm_jax.data.pictures import DAMAGED, is_png, orientation
from cffm_jax.errors import InputError

_COLOUR = r"(\d{1,3})\s*[,;\s]\s*(\d{1,3})\s*[,;\s]\s*(\d{1,3})\s*(?::.*)?"
_ROWS = [re.compile(rf"(.*?\S)\s*{separator}\s*{_COLOUR}") for separator in (":", r"[:,;\s]")]
"""A colon comes first: before it a name may end in numbers itself."""
_HEADER = re.compile(r"#.*|name\W+r\W+g\W+b\W*", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, eq=False)
class ColourTable:
    """Names and colours of classes.

    Attributes:
      names: K names.
      colours: u8[K,3], RGB, all different.
    """

    names: tuple[str, ...]
    colours: np.ndarray

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """u8[2**24]: the class of each colour, as of `_packed`, ``NO_LABEL`` for none."""
        labels = np.full(1 << 24, NO_LABEL, np.uint8)
        labels[_packed(self.colours)] = range(len(self.names))
        return labels


def read_table(path: str | Path) -> ColourTable:
    """Reads a table of a class a line: ``road:128,64,128`` (what follows another : is left out, as
    in CVAT's labelmap.txt), ``road,128,64,128`` or ``road 128 64 128``; # begins a comment.

    Raises:
      InputError: it cannot be read, a line is not so, or two classes have one name or colour.
    """
    names, colours = [], []
    for number, line in enumerate(read_text(Path(path)).splitlines(), 1):
        if not line.strip() or _HEADER.fullmatch(line.strip()):
            continue
        row = next(filter(None, (form.fullmatch(line.strip()) for form in _ROWS)), None)
        colour = tuple(int(value) for value in row.groups()[1:]) if row else ()
        if not row or max(colour) > 255:
            problem = f"has {line.strip()!r} as line {number}"
            raise InputError(path, problem, "write a class and its red, green and blue, 0 to 255: road:128,64,128")
        names.append(row[1])
        colours.append(colour)
    if not 1 <= len(names) < NO_LABEL:
        raise InputError(path, f"names {len(names)} classes", f"name 1 to {NO_LABEL - 1}")
    double = first_double(names)
    if double:
        raise InputError(path, f"names {double!r} twice", "give each class a name of its own")
    for k, colour in enumerate(colours):
        if colour in colours[:k]:
            problem = f"gives {names[colours.index(colour)]} and {names[k]} the colour {rgb(bytes(colour))}"
            raise InputError(path, problem, "give each class a colour of its own")
    return ColourTable(tuple(names), np.array(colours, np.uint8))


def _packed(colours: np.ndarray) -> np.ndarray:
    """Colours u8[...,3] as one number each, u32[...]."""
    return colours.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)


def read_coloured(
    path: FileName, table: ColourTable, size: tuple[int, int] | None = None, *, blended: bool = False
) -> Drawn:
    """Reads a mask in a table's colours: a PNG in RGB, with a palette, or grey.

    Args:
      path: of the mask.
      table: of the colours.
      size: of its frame, which others than masks need.
      blended: whether pixels of colours that the table lacks have no label, and are no error.

    Raises:
      InputError: it is no such PNG, or holds a colour that the table lacks.
    """
    packed = _packed(_read_rgb(path))
    labels = table.labels[packed]
    unknown = packed[labels == NO_LABEL]
    if len(unknown) and not blended:
        found, counts = np.unique(unknown, return_counts=True)
        most = int(found[counts.argmax()])
        colour = np.array([most >> 16, most >> 8 & 255, most & 255])
        near = int(((table.colours - colour) ** 2).sum(1).argmin())
        problem = (
            f"has {len(unknown)} pixels of {len(found)} colours that the table lacks, most of "
            f"{rgb(bytes(colour.tolist()))}; the nearest is {table.names[near]} {rgb(table.colours[near].tobytes())}"
        )
        raise InputError(path, problem, "complete the table, or save masks without smoothing or loss (PNG)")
    return Drawn(labels)


def _read_rgb(path: FileName) -> np.ndarray:
    """u8[H,W,3] of a PNG."""
    data = read_bytes(path)
    image = open_image(path, data)
    if not is_png(data):
        raise InputError(path, "is a JPEG, which changes colours", "save masks as PNG")
    require_plain(path, image, data)
    try:
        if image.mode not in ("1", "L", "P", "RGB", "RGBA"):
            raise InputError(path, f"has pixels of mode {image.mode}", "save masks as PNG in RGB")
        if image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
            raise InputError(path, "has transparent pixels", "save masks without transparency")
        return np.asarray(image.convert("RGB"))
    except DAMAGED as error:
        raise UnreadableFile(path, "cannot be read (truncated or damaged)", "copy or export it again") from error


def require_plain(path: FileName, image: Image.Image, data: bytes) -> None:
    """InputError for a mask that EXIF turns: programs that draw masks write none."""
    if (orientation(image, data) or 1) != 1:
        raise InputError(path, "is turned by EXIF", "turn its pixels instead (mogrify -auto-orient FILE)")
