"""Pictures of results: masks over frames, sheets of time steps, videos side by side. Needs neither a model nor JAX.

Frames are u8[H,W,3] in RGB, masks u8[H,W] with classes 0..K-1 and 255 where nothing is known.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cffm_jax.config import IGNORED_LABEL
from cffm_jax.data import layouts
from cffm_jax.data.classes import palette
from cffm_jax.errors import InputError

if TYPE_CHECKING:
    from cffm_jax.inference.offline import Chunk

INPUT, TRUTH = "input", "ground truth"
"""Labels of the first and the last row of a sheet (panel of a video); between them are the model's, the best last."""
ALPHA = 0.7
"""How much of a class's colour covers the frame."""

_PAPER, _INK, _PALE = (255, 255, 255), (32, 33, 36), (110, 114, 120)
_BORDER = 255
_TEXT = 15
_MARGIN, _GAP = 24, 4
_CELL, _PANEL = 400, 480
"""Longest side of a sheet's cell and of a video's panel, in pixels."""


def overlay(frame: np.ndarray, mask: np.ndarray, colours: np.ndarray, alpha: float = ALPHA) -> np.ndarray:
    """Lays a mask over its frame, with a border one pixel thin between classes.

    Args:
      frame: u8[H,W,3].
      mask: u8[H,W]; pixels of 255 show the frame as it is.
      colours: u8[256,3], as of `classes.palette`.
      alpha: 0 shows the frame alone, 1 the classes' colours alone.

    Returns:
      u8[H,W,3].
    """
    border = np.zeros(mask.shape, bool)
    border[:, 1:] = mask[:, 1:] != mask[:, :-1]
    border[1:] |= mask[1:] != mask[:-1]
    paint = colours[mask].astype(np.float32)
    paint[border] = _BORDER
    mixed = np.rint(frame + np.float32(alpha) * (paint - frame)).astype(np.uint8)
    return np.where((mask != IGNORED_LABEL)[..., None], mixed, frame)


def shown_size(height: int, width: int, longest: int) -> tuple[int, int]:
    """Height and width at which a frame is shown: small ones twice as large, large ones reduced to ``longest``."""
    factor = 2 if 2 * max(height, width) <= longest else min(1.0, longest / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def views(
    frame: np.ndarray, masks: Mapping[str, np.ndarray], colours: np.ndarray, longest: int, alpha: float = ALPHA
) -> dict[str, np.ndarray]:
    """The frame under ``INPUT`` and, under their own labels, the masks laid over it, at `shown_size`."""
    height, width = shown_size(*frame.shape[:2], longest)
    smaller = height < frame.shape[0]
    picture = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)

    def over(mask: np.ndarray) -> np.ndarray:
        return overlay(picture, cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST), colours, alpha)

    return {INPUT: picture, **{label: over(mask) for label, mask in masks.items()}}


class Strip(NamedTuple):
    """Some time steps of one video.

    Attributes:
      title: what is written above it, for example the video's name.
      times: index of each time step's frame.
      cells: for each time step the pictures by row label, as `views` gives them; all with the same rows and of one
        size.
      labels: what these masks hold, `IGNORED_LABEL` included.
    """

    title: str
    times: Sequence[int]
    cells: Sequence[Mapping[str, np.ndarray]]
    labels: frozenset[int]


def contact_sheet(strips: Sequence[Strip], class_names: Sequence[str]) -> np.ndarray:
    """The strips below each other, time from left to right, with labels and a legend of the classes shown.

    Returns:
      u8[H,W,3].
    """
    font, small = ImageFont.load_default(_TEXT), ImageFont.load_default(_TEXT - 2)
    rows = {label: label.replace(" (", "\n(") for strip in strips for label in strip.cells[0]}
    ruler = ImageDraw.Draw(Image.new("L", (1, 1)))
    left = _MARGIN + max(ruler.multiline_textbbox((0, 0), text, font)[2] for text in rows.values()) + 12
    right = max(left + len(s.cells) * (s.cells[0][INPUT].shape[1] + _GAP) - _GAP for s in strips)
    width = int(max(right, left + 400)) + _MARGIN
    head = 2 * _TEXT + 16
    places, bottom = [], _MARGIN
    for strip in strips:
        places.append(bottom)
        bottom += head + len(strip.cells[0]) * (strip.cells[0][INPUT].shape[0] + _GAP) + _TEXT
    names = {k: _legend_name(k, class_names) for k in sorted(set().union(*(s.labels for s in strips)))}
    entries = _legend_places(ruler, small, names, left, width - _MARGIN)
    height = bottom + max((y for _, y in entries.values()), default=0) + _TEXT + _MARGIN
    sheet = Image.new("RGB", (width, int(height)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for strip, top in zip(strips, places, strict=True):
        _draw_strip(sheet, draw, strip, rows, (int(left), top, head), (font, small))
    colours = palette(len(class_names))
    for k, (x, y) in entries.items():
        y += bottom
        known = k != IGNORED_LABEL
        fill, outline = (tuple(colours[k].tolist()), None) if known else (_PAPER, _PALE)
        draw.rounded_rectangle((x, y, x + _TEXT + 3, y + _TEXT + 3), 3, fill, outline)
        draw.text((x + _TEXT + 9, y + _TEXT / 2 + 1), names[k], _INK, small, "lm")
    return np.asarray(sheet)


def _draw_strip(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    strip: Strip,
    rows: Mapping[str, str],
    place: tuple[int, int, int],
    fonts: tuple[ImageFont.FreeTypeFont, ImageFont.FreeTypeFont],
) -> None:
    left, top, head = place
    height, width = strip.cells[0][INPUT].shape[:2]
    draw.text((left, top), strip.title, _INK, fonts[0], "la")
    for column, (time, cells) in enumerate(zip(strip.times, strip.cells, strict=True)):
        x = left + column * (width + _GAP)
        draw.text((x + width / 2, top + head - 6), f"frame {time}", _PALE, fonts[1], "mb")
        for row, (label, cell) in enumerate(cells.items()):
            y = top + head + row * (height + _GAP)
            sheet.paste(Image.fromarray(cell), (x, y))
            if column == 0:
                draw.text((left - 12, y + height / 2), rows[label], _INK, fonts[0], "rm", align="right")


def _legend_name(k: int, class_names: Sequence[str]) -> str:
    return "no label (frame as it is)" if k == IGNORED_LABEL else class_names[k].replace("_", " ")


def _legend_places(
    ruler: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont, names: Mapping[int, str], left: float, right: float
) -> dict[int, tuple[int, int]]:
    """Where each entry stands in the legend, (x, y), in lines from left to right."""
    places, x, y = {}, left, 0
    for k, name in names.items():
        needed = _TEXT + 9 + ruler.textlength(name, font)
        if x > left and x + needed > right:
            x, y = left, y + _TEXT + 12
        places[k] = int(x), y
        x += needed + 22
    return places


def side_by_side(panels: Mapping[str, np.ndarray]) -> np.ndarray:
    """Pictures of one size beside each other, each under its label; both sides of the result are even."""
    height, width = next(iter(panels.values())).shape[:2]
    head = _TEXT + 12
    size = [-(-side // 2) * 2 for side in (len(panels) * (width + _GAP) - _GAP, head + height)]
    sheet = Image.new("RGB", tuple(size), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_TEXT - 2)
    for column, (label, panel) in enumerate(panels.items()):
        x = column * (width + _GAP)
        if draw.textlength(label, font) > width:
            label = label.split(" (")[0]
        draw.text((x + width / 2, head / 2), label, _INK, font, "mm")
        sheet.paste(Image.fromarray(panel), (x, head))
    return np.asarray(sheet)


def write_png(path: str | Path, picture: np.ndarray) -> None:
    """Writes a picture, whole or not at all. InputError if that cannot be."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        Image.fromarray(picture).save(partial, format="PNG", optimize=True)
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise _unwritable(path, error.strerror) from error


class VideoFile:
    """An .mp4 (MPEG-4 part 2) in the making; a context manager: whole at its end, and nothing there after an error.

    Pictures of another size than the first are fitted into its size, on white. Without a picture no file appears.
    """

    def __init__(self, path: str | Path, fps: float = 15):
        self.path = Path(path)
        self._partial = self.path.with_name(f".{self.path.stem}.partial.mp4")
        self._fps = fps
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._count = 0

    def write(self, picture: np.ndarray) -> None:
        """Adds a picture u8[H,W,3] at its end. InputError if the file cannot be written."""
        if self._writer is None:
            self._open(picture)
        self._writer.write(np.ascontiguousarray(_fitted(picture, self._size)[..., ::-1]))
        self._count += 1

    def _open(self, picture: np.ndarray) -> None:
        try:
            self._partial.touch()
        except OSError as error:
            raise _unwritable(self.path, error.strerror) from error
        self._size = tuple(-(-side // 2) * 2 for side in picture.shape[:2])
        codec = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(str(self._partial), cv2.CAP_FFMPEG, codec, self._fps, self._size[::-1])
        if not self._writer.isOpened():
            raise _unwritable(self.path, "OpenCV opens no MPEG-4 encoder")

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if self._writer is not None:
            self._writer.release()
        try:
            if kind is None and self._count:
                self._finish()
        finally:
            with contextlib.suppress(OSError):
                self._partial.unlink(missing_ok=True)

    def _finish(self) -> None:
        """OpenCV does not say when a write fails: what is there is counted."""
        reader = cv2.VideoCapture(str(self._partial), cv2.CAP_FFMPEG)
        count = int(reader.get(cv2.CAP_PROP_FRAME_COUNT))
        reader.release()
        if count != self._count:
            raise _unwritable(self.path, f"{count} of {self._count} pictures arrived")
        try:
            self._partial.replace(self.path)
        except OSError as error:
            raise _unwritable(self.path, error.strerror) from error


def _fitted(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The picture in the middle of a white one of that size, reduced if it is larger."""
    if picture.shape[:2] == size:
        return picture
    factor = min(1.0, size[0] / picture.shape[0], size[1] / picture.shape[1])
    if factor < 1:
        shape = (max(1, int(picture.shape[1] * factor)), max(1, int(picture.shape[0] * factor)))
        picture = cv2.resize(picture, shape, interpolation=cv2.INTER_AREA)
    result = np.full((*size, 3), _PAPER, np.uint8)
    top, left = ((whole - part) // 2 for whole, part in zip(size, picture.shape))
    result[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return result


def _unwritable(path: Path, reason: str | None) -> InputError:
    return InputError(path, f"cannot be written ({reason or 'unknown reason'})", "choose a folder that can be written")


def overlay_video(path: str | Path, panels: Iterable[Mapping[str, np.ndarray]], fps: float = 15) -> int:
    """Writes an .mp4 of pictures side by side, whole or not at all.

    Args:
      path: the file; one that is there is replaced.
      panels: for each time step the pictures by label, as `views` gives them.
      fps: time steps per second.

    Returns:
      The number of time steps.

    Raises:
      InputError: the file cannot be written.
    """
    count = 0
    with VideoFile(path, fps) as video:
        for step in panels:
            video.write(side_by_side(step))
            count += 1
    return count


def spread(count: int, among: int, first: int = 0) -> tuple[int, ...]:
    """At most ``count`` different indices below ``among``, evenly from ``first`` (if so many follow) to the last."""
    first = first if among - first >= count else 0
    return tuple(sorted({round(x) for x in np.linspace(first, among - 1, min(count, among)).tolist()}))


class PictureCollector:
    """Draws some videos while they are segmented: ``sheet.png`` and ``overlay.mp4`` in a folder.

    A context manager to be called with each chunk, in order; the files appear at its end, and not after an error.
    Memory does not grow with the videos' length::

        with PictureCollector("pictures", videos, class_names) as pictures:
            evaluate(segmenter, variables, videos, watchers=[pictures])

    Args:
      folder: made if it is not there; pictures in it are replaced.
      videos: those that will be segmented.
      class_names: K names.
      count: how many of the videos to draw, evenly spread over them.
      steps: time steps of each video on the sheet.
      first: earliest frame on the sheet: before the largest offset a clip is not complete.
      fps: frames per second of the .mp4.
    """

    def __init__(
        self,
        folder: str | Path,
        videos: Sequence[layouts.Video],
        class_names: Sequence[str],
        *,
        count: int = 3,
        steps: int = 5,
        first: int = 9,
        fps: float = 15,
    ):
        self.folder = Path(folder)
        chosen = [videos[i] for i in spread(count, len(videos))] if videos else []
        self._times = {video.name: spread(steps, len(video.frames), first) for video in chosen}
        self._names = tuple(class_names)
        self._colours = palette(len(class_names))
        self._strips: dict[str, Strip] = {}
        self._video = VideoFile(self.folder / "overlay.mp4", fps)

    def __call__(self, chunk: Chunk) -> None:
        if chunk.video.name not in self._times:
            return
        for i in range(len(chunk.own)):
            time = chunk.start + i
            frame = layouts.read_frame(chunk.video.frames[time])
            masks = {row: chunk.masks[row][i] for row in reversed(chunk.masks)}
            if chunk.labels is not None:
                masks[TRUTH] = chunk.labels[i]
            self._video.write(side_by_side(views(frame, masks, self._colours, _PANEL)))
            if time in self._times[chunk.video.name]:
                self._add(chunk.video.name, time, views(frame, masks, self._colours, _CELL), masks)

    def _add(self, name: str, time: int, cells: Mapping[str, np.ndarray], masks: Mapping[str, np.ndarray]) -> None:
        strip = self._strips.get(name, Strip(name, (), (), frozenset()))
        held = {int(k) for mask in masks.values() for k in np.unique(mask)}
        self._strips[name] = Strip(name, (*strip.times, time), (*strip.cells, cells), strip.labels | held)

    def __enter__(self) -> PictureCollector:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(self.folder, error.strerror) from error
        return self

    def __exit__(self, kind: type | None, *rest: object) -> None:
        try:
            self._video.__exit__(kind, *rest)
            if kind is None and self._strips:
                write_png(self.folder / "sheet.png", contact_sheet(tuple(self._strips.values()), self._names))
        finally:
            with contextlib.suppress(OSError):
                os.rmdir(self.folder)  # Only when nothing came to be in it.
