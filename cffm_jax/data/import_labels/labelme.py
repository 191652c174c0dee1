"""labelme's JSON: a file an image, with polygons, rectangles, circles and masks.

Shapes are filled with their outline, by Pillow, as labelme itself fills them.
"""

from __future__ import annotations

import base64
import binascii
import functools
import math
import posixpath
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from cffm_jax.data.image_files import open_image
from cffm_jax.data.import_labels.interface import (
    Canvas,
    Drawn,
    Format,
    Frame,
    Labels,
    require_near,
    require_size,
    unlisted,
)
from cffm_jax.data.import_labels.source import Source, split_of_folders
from cffm_jax.data.pictures import DAMAGED
from cffm_jax.errors import InputError, first_few

_POLYGONS = {"polygon": 3, "oriented_rectangle": 4, "rotation": 4}
_DRAWN = {**_POLYGONS, "rectangle": 2, "circle": 2, "mask": 2}
"""Kinds of shapes that have an area -> their least number of points."""
_STARTS = {"/9j/": ".jpg", "iVBORw0KGgo": ".png"}
"""First characters of an image in base64 -> its suffix."""


class _Shape(NamedTuple):
    """A shape: its class, kind, points (x, y) and, of a mask, a PNG in base64."""

    label: str
    kind: str
    points: Sequence[Sequence[float]]
    mask: str


def _recognise(source: Source) -> bool:
    return "labelme" in source.json_kinds.values()


def _read(source: Source, colours: str) -> Labels:
    files = [file for file, kind in source.json_kinds.items() if kind == "labelme"]
    told: Counter[str] = Counter()
    read: list[tuple[Frame, list[_Shape], tuple[int, int] | None]] = []
    listed: dict[str, str] = {}
    missing: dict[str, str] = {}
    for file in files:
        try:
            tree = source.json(file)
            shapes = _shapes(tree["shapes"], told)
            image = source.find(file, tree["imagePath"], posixpath.dirname(file))
            data, stated = tree.get("imageData"), (tree.get("imageHeight"), tree.get("imageWidth"))
            size = (int(stated[0]), int(stated[1])) if all(stated) else None
            suffix = next((suffix for start, suffix in _STARTS.items() if str(data).startswith(start)), "")
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            problem = f"is not as labelme has it ({type(error).__name__}: {' '.join(str(error).split())})"
            raise InputError(source.path(file), problem, "save it again") from error
        if image is None and not suffix:
            missing[file] = tree["imagePath"]
            continue
        place = image or posixpath.splitext(file)[0] + suffix
        inside = None if image else functools.partial(_image_data, source, file)
        other = listed.setdefault(place, file)
        if other != file:
            problem = f"is of {place}, as {other} is"
            raise InputError(source.path(file), problem, "keep one of the two files there")
        read.append((Frame(place, split_of_folders(place), None, file, inside), shapes, size))
    if missing:
        source.require_all(next(iter(missing)), list(missing.values()), len(files))
    names = sorted({shape.label for _, shapes, _ in read for shape in shapes})
    places = {name: k for k, name in enumerate(names)}
    done = [
        frame._replace(draw=functools.partial(_drawn, source.path(frame.where), shapes, said, places))
        if shapes
        else frame
        for frame, shapes, said in read
    ]
    done += unlisted(source, done)
    taken = sum(frame.data is not None for frame in done)
    notes = [f"{count:,} {words}" for words, count in told.items()]
    if taken:
        notes.append(f"{taken} images are not there as files: those within the JSON files are taken (imageData)")
    over = "shapes lie over earlier ones of the file"
    return Labels(tuple(names), "that of the alphabet", done, over=over, notes=tuple(notes))


def _shapes(shapes: Sequence[dict[str, Any]], told: Counter[str]) -> list[_Shape]:
    """Those that have an area; counts the others in ``told``."""
    found = []
    for each in shapes:
        kind, points = each.get("shape_type") or "polygon", each["points"]
        if kind not in _DRAWN:
            told[f"shapes of the kind {kind!r} are not drawn, and are left out"] += 1
        elif len(points) < _DRAWN[kind]:
            told[f"shapes of the kind {kind!r} have fewer than {_DRAWN[kind]} points, and are left out"] += 1
        else:
            found.append(_Shape(str(each["label"]).strip(), kind, points, each.get("mask") or ""))
    return found


def _image_data(source: Source, file: str) -> bytes:
    try:
        return base64.b64decode(source.json(file)["imageData"])
    except (binascii.Error, ValueError) as error:
        raise InputError(source.path(file), f"has no image in imageData ({error})", "add its file") from error


def _drawn(
    path: Path,
    shapes: Sequence[_Shape],
    said: tuple[int, int] | None,
    places: dict[str, int],
    size: tuple[int, int],
) -> Drawn:
    require_size(path, "its image", said or size, size)
    canvas = Canvas(size)
    for number, shape in enumerate(shapes, 1):
        try:
            where = _filled(shape, size)
        except (*DAMAGED, InputError) as error:
            problem = f"has a {shape.kind} of {shape.label} that cannot be drawn ({error})"
            raise InputError(path, problem, f"mend or remove it (shape {number} of those with an area)") from error
        canvas.draw(where, places[shape.label])
    return canvas.drawn


def _filled(shape: _Shape, size: tuple[int, int]) -> np.ndarray:
    """bool[H,W]. ValueError: it cannot be drawn."""
    points = [(float(x), float(y)) for x, y in shape.points]
    require_near(points, size)
    if shape.kind not in _POLYGONS and len(points) != 2:
        raise ValueError(f"it has {len(points)} points, not 2")
    if shape.kind == "mask":
        return _pasted(shape, size)
    image = Image.new("L", size[::-1])
    draw = ImageDraw.Draw(image)
    if shape.kind in _POLYGONS:
        draw.polygon(points, fill=1, outline=1)
    elif shape.kind == "rectangle":
        (left, right), (top, bottom) = (sorted(each) for each in zip(*points))
        draw.rectangle((left, top, right, bottom), fill=1, outline=1)
    else:
        (x, y), edge = points
        r = math.dist((x, y), edge)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=1, outline=1)
    return np.asarray(image) > 0


def _pasted(shape: _Shape, size: tuple[int, int]) -> np.ndarray:
    """A mask at its place: the points are its first and last pixel."""
    (left, top), (right, bottom) = (map(int, point) for point in shape.points)
    part = np.asarray(open_image("mask", base64.b64decode(shape.mask))) > 0
    if part.shape != (bottom - top + 1, right - left + 1) or not (0 <= top <= bottom < size[0]):
        raise ValueError(f"its mask of {first_few(part.shape[::-1], 3, 'x')} is not where its points are")
    where = np.zeros(size, bool)
    if not 0 <= left <= right < size[1]:
        raise ValueError("its mask leads out of the image")
    where[top : bottom + 1, left : right + 1] = part
    return where


FORMAT = Format("labelme", "labelme JSON", _recognise, _read)
