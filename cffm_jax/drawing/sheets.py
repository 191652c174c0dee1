"""Draws label maps: masks over frames, sheets of time steps with a legend, pictures side by side.

Frames are u8[H,W,3] in RGB, masks u8[H,W] with classes 0..K-1 and 255 where nothing is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cffm_jax.config import IGNORED_LABEL
from cffm_jax.drawing.masks import INPUT
from cffm_jax.drawing.palette import palette
from cffm_jax.drawing.text import Font, shortened, text_size
from cffm_jax.runtime.atomic import whole_file

SHARES = "classes over time"
"""Label of the band below a strip."""

PAPER, _INK, _PALE = (255, 255, 255), (32, 33, 36), (110, 114, 120)
_TEXT, _LINES = 15, 11
"""Height of letters: pixels at least, and so many to a picture's shorter side."""
_MARGIN, _GAP = 24, 4
_BAND = 120
CELL = 400
"""Longest side of a sheet's cell, in pixels."""


class Strip(NamedTuple):
    """Some time steps of one video.

    Attributes:
      title: what is written above it, for example the video's name.
      heads: what is written above each time step.
      cells: each time step's pictures by row label, as of `views`; same rows, one size.
      labels: what these masks hold, `IGNORED_LABEL` included.
      shares: f[T,K], each class's share of every frame, drawn as a band below the cells; or None.
    """

    title: str
    heads: Sequence[str]
    cells: Sequence[Mapping[str, np.ndarray]]
    labels: frozenset[int]
    shares: np.ndarray | None = None


def contact_sheet(strips: Sequence[Strip], class_names: Sequence[str], colours: np.ndarray | None = None) -> np.ndarray:
    """The strips one below the other, time left to right, with labels and a legend of the classes.

    ``colours`` u8[256,3] are the classes', by default those of `drawing.palette`.

    Returns:
      u8[H,W,3].
    """
    text = max(text_size(s.cells[0][INPUT].shape[:2], _TEXT, _LINES) for s in strips)
    font, small = ImageFont.load_default(text), ImageFont.load_default(text - 2)
    rows = {label: label.replace(" (", "\n(") for strip in strips for label in strip.cells[0]}
    if any(strip.shares is not None for strip in strips):
        rows[SHARES] = SHARES.replace(" ", "\n")
    colours = palette(len(class_names)) if colours is None else colours
    ruler = ImageDraw.Draw(Image.new("L", (1, 1)))
    left = _MARGIN + max(ruler.multiline_textbbox((0, 0), words, font)[2] for words in rows.values()) + 12
    right = max(left + len(s.cells) * (s.cells[0][INPUT].shape[1] + _GAP) - _GAP for s in strips)
    width = int(max(right, left + 400)) + _MARGIN
    head = 2 * text + 16
    places, bottom = [], _MARGIN
    for strip in strips:
        places.append(bottom)
        bottom += head + len(strip.cells[0]) * (strip.cells[0][INPUT].shape[0] + _GAP) + text
        bottom += 0 if strip.shares is None else _BAND + _GAP
    room = width - _MARGIN - left - text - 9
    labels = sorted(set().union(*(s.labels for s in strips)))
    names = {k: shortened(_legend_name(k, class_names), small, room) for k in labels}
    entries = _legend_places(text, small, names, left, width - _MARGIN)
    height = bottom + max((y for _, y in entries.values()), default=0) + text + _MARGIN
    sheet = Image.new("RGB", (width, int(height)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for strip, top in zip(strips, places, strict=True):
        _draw_strip(sheet, draw, strip, rows, (int(left), top, head), (font, small), colours)
    for k, (x, y) in entries.items():
        y += bottom
        known = k != IGNORED_LABEL
        fill, outline = (tuple(colours[k].tolist()), None) if known else (PAPER, _PALE)
        draw.rounded_rectangle((x, y, x + text + 3, y + text + 3), 3, fill, outline)
        draw.text((x + text + 9, y + text / 2 + 1), names[k], _INK, small, "lm")
    return np.asarray(sheet)


def _draw_strip(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    strip: Strip,
    rows: Mapping[str, str],
    place: tuple[int, int, int],
    fonts: tuple[Font, Font],
    colours: np.ndarray,
) -> None:
    left, top, head = place
    height, width = strip.cells[0][INPUT].shape[:2]
    draw.text((left, top), strip.title, _INK, fonts[0], "la")
    for column, (words, cells) in enumerate(zip(strip.heads, strip.cells, strict=True)):
        x = left + column * (width + _GAP)
        draw.text((x + width / 2, top + head - 6), words, _PALE, fonts[1], "mb")
        for row, (label, cell) in enumerate(cells.items()):
            y = top + head + row * (height + _GAP)
            sheet.paste(Image.fromarray(cell), (x, y))
            if column == 0:
                draw.text((left - 12, y + height / 2), rows[label], _INK, fonts[0], "rm", align="right")
    if strip.shares is not None:
        y = top + head + len(strip.cells[0]) * (height + _GAP)
        band = timeline(strip.shares, colours, (_BAND, len(strip.cells) * (width + _GAP) - _GAP))
        sheet.paste(Image.fromarray(band), (left, y))
        draw.text((left - 12, y + _BAND / 2), rows[SHARES], _INK, fonts[0], "rm", align="right")


def _legend_name(k: int, class_names: Sequence[str]) -> str:
    return "no label (frame as it is)" if k == IGNORED_LABEL else class_names[k].replace("_", " ")


def _legend_places(
    text: int, font: Font, names: Mapping[int, str], left: float, right: float
) -> dict[int, tuple[int, int]]:
    """Where each entry stands in the legend, (x, y), in lines from left to right."""
    places, x, y = {}, left, 0
    for k, name in names.items():
        needed = text + 9 + font.getlength(name)
        if x > left and x + needed > right:
            x, y = left, y + text + 12
        places[k] = int(x), y
        x += needed + 22
    return places


def timeline(shares: np.ndarray, colours: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The classes' shares over time as a stacked band: class 0 lowest, on top paper for no label.

    Args:
      shares: f[T,K], of each frame's pixels.
      colours: u8[256,3], as of `drawing.palette`.
      size: height and width of the band.

    Returns:
      u8[height,width,3].
    """
    height, width = size
    ends = np.rint(height * np.cumsum(shares, axis=1)).astype(int)[np.arange(width) * len(shares) // width]
    # The class of a pixel is the number of those that end below it.
    stacked = (ends[:, None] <= np.arange(height)[:, None]).sum(-1).T[::-1]
    paint = np.concatenate([colours[: shares.shape[1]], np.array([PAPER], np.uint8)])
    return paint[stacked]


def side_by_side(panels: Mapping[str, np.ndarray]) -> np.ndarray:
    """Pictures of one size side by side, each under its label; the result's sides are even."""
    height, width = next(iter(panels.values())).shape[:2]
    text = text_size((height, width), _TEXT, _LINES)
    head = text + 12
    size = [-(-side // 2) * 2 for side in (len(panels) * (width + _GAP) - _GAP, head + height)]
    sheet = Image.new("RGB", tuple(size), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(text - 2)
    for column, (label, panel) in enumerate(panels.items()):
        x = column * (width + _GAP)
        if draw.textlength(label, font) > width:
            label = shortened(label.split(" (")[0], font, width)
        draw.text((x + width / 2, head / 2), label, _INK, font, "mm")
        sheet.paste(Image.fromarray(panel), (x, head))
    return np.asarray(sheet)


def write_png(path: str | Path, picture: np.ndarray) -> None:
    """Writes a picture, whole or not at all. InputError if that cannot be."""
    with whole_file(path) as partial:
        # A twentieth larger than the smallest, in a tenth of the time.
        Image.fromarray(picture).save(partial, format="PNG", compress_level=4)


def spread(count: int, among: int, first: int = 0) -> tuple[int, ...]:
    """At most ``count`` different indices below ``among``, evenly from ``first`` (if so many
    follow) to the last."""
    first = first if among - first >= count else 0
    return tuple(sorted({round(x) for x in np.linspace(first, among - 1, min(count, among)).tolist()}))
