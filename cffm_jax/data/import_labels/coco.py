"""COCO's JSON, as CVAT, Roboflow, Label Studio and COCO itself write it.

    annotations/instances_<split>.json, images below images/ or <split>/    CVAT, COCO
    <split>/_annotations.coco.json beside the images                        Roboflow
    result.json, images/                                                    Label Studio

Polygons are filled by pycocotools. Run lengths are read here: pycocotools 2.0.11 fills up runs that
end too soon with whatever is in memory. cocodataset.org, "Data format".
"""

from __future__ import annotations

import functools
import importlib
import posixpath
import types
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

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
from cffm_jax.data.import_labels.source import Source, split_of
from cffm_jax.errors import InputError

_AGAIN = "export it again"


class _Region(NamedTuple):
    """An annotation: its id, class and ``segmentation``, and whether it is a crowd's."""

    id: Any
    label: str
    shape: Any
    crowd: bool


def _recognise(source: Source) -> bool:
    return "coco" in source.json_kinds.values()


def _read(source: Source, colours: str) -> Labels:
    _polygons()
    files = [file for file, kind in source.json_kinds.items() if kind == "coco"]
    names: dict[str, None] = {}
    parents: set[str] = set()
    used: Counter[str] = Counter()
    told: Counter[str] = Counter()
    frames: list[tuple[Frame, list[_Region], tuple[int, int]]] = []
    listed: dict[str, str] = {}
    for file in files:
        try:
            tree = source.json(file)
            categories = _by_id(source.path(file), "categories", tree["categories"])
            names |= dict.fromkeys(str(categories[key]["name"]).strip() for key in sorted(categories))
            parents |= {str(each.get("supercategory", "")).strip() for each in categories.values()}
            regions = _regions(source.path(file), tree["annotations"], categories, tree["images"], told)
            found = _frames(source, file, tree["images"], regions)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            problem = f"is not as COCO has it ({type(error).__name__}: {' '.join(str(error).split())})"
            raise InputError(source.path(file), problem, _AGAIN) from error
        for frame, here, _ in found:
            other = listed.setdefault(frame.file, file)
            if other != file:
                problem = f"lists {frame.file}, as {other} does"
                raise InputError(source.path(file), problem, "keep one of the two files there")
            used.update(region.label for region in here)
        frames += found
    empty = [name for name in names if name in parents and not used[name]]
    kept = [name for name in names if name not in empty]
    notes = [f"{count:,} {words}" for words, count in told.items()]
    if empty:
        words = ", ".join(map(repr, empty))
        notes.append(f"left out, as others' supercategory without an annotation of its own: {words}")
    places = {name: k for k, name in enumerate(kept)}
    done = [
        frame._replace(draw=functools.partial(_drawn, source.path(frame.where), regions, size, places))
        if regions
        else frame
        for frame, regions, size in frames
    ]
    done += unlisted(source, done)
    over = "annotations lie over earlier ones of the file, all over crowds"
    return Labels(tuple(kept), "that of the category ids", done, over=over, notes=tuple(notes))


def _by_id(path: Path, what: str, entries: Sequence[dict[str, Any]]) -> dict[Any, dict[str, Any]]:
    """InputError: two have one id, or a name."""
    for key in ("id", "name") if what == "categories" else ("id",):
        # A name as it will be written: 7 and "7", "car" and "car " are one.
        values = (str(entry[key]).strip() if key == "name" else entry[key] for entry in entries)
        value, count = next(iter(Counter(values).most_common(1)), ("", 0))
        if count > 1:
            raise InputError(path, f"has {count} {what} of the {key} {value}", f"give each a {key} of its own")
    return {entry["id"]: entry for entry in entries}


def _regions(
    path: Path,
    annotations: Sequence[dict[str, Any]],
    categories: dict[Any, dict[str, Any]],
    images: Sequence[dict[str, Any]],
    told: Counter[str],
) -> dict[Any, list[_Region]]:
    """Image id -> its regions, in the order to draw them in; counts what is told in ``told``.

    Raises:
      InputError: an annotation is of no category or image, or a box alone.
    """
    there = _by_id(path, "images", images)
    faults: Counter[str] = Counter()
    regions: dict[Any, list[_Region]] = defaultdict(list)
    for each in annotations:
        shape = each.get("segmentation")
        if each["category_id"] not in categories:
            faults["are of a category that it does not list"] += 1
        elif each["image_id"] not in there:
            faults["are of an image that it does not list"] += 1
        elif not shape:
            faults["have no segmentation (a box alone does not say which pixels are meant)"] += 1
        else:
            crowd = bool(each.get("iscrowd"))
            polygons = shape if isinstance(shape, list) else []
            # What holds other things than numbers is no polygon of COCO's: drawing refuses it.
            short = [each for each in polygons if len(each) < 6 and all(isinstance(x, int | float) for x in each)]
            told["polygons of fewer than three points hold no pixel"] += len(short)
            told["regions are crowds, and lie below all others"] += crowd
            shape = [polygon for polygon in polygons if polygon not in short] if polygons else shape
            name = str(categories[each["category_id"]]["name"]).strip()
            regions[each["image_id"]].append(_Region(each.get("id"), name, shape, crowd))
    if faults:
        words, count = faults.most_common(1)[0]
        raise InputError(path, f"has {count} annotations of {len(annotations)} that {words}", "mend or remove them")
    told += Counter()  # Drops what was not met.
    return {image: sorted(each, key=lambda region: not region.crowd) for image, each in regions.items()}


def _frames(
    source: Source, file: str, images: Sequence[dict[str, Any]], regions: dict[Any, list[_Region]]
) -> list[tuple[Frame, list[_Region], tuple[int, int]]]:
    """The frames that a file lists, with their regions, height and width. InputError: one is
    missing, or there twice."""
    folder, name = posixpath.split(file)
    stem = posixpath.splitext(name)[0]
    split = split_of(stem, posixpath.basename(folder))
    frames, missing, seen = [], [], set()
    for each in images:
        said = each["file_name"]
        image = source.find(file, said, folder, within=stem.split("_", 1)[-1])
        if image is None:
            missing.append(said)
            continue
        if image in seen:
            raise InputError(source.path(file), f"lists {image} twice", _AGAIN)
        seen.add(image)
        frames.append(
            (Frame(image, split, None, file), regions.get(each["id"], []), (int(each["height"]), int(each["width"])))
        )
    source.require_all(file, missing, len(images))
    return frames


def _drawn(
    path: Path, regions: Sequence[_Region], size: tuple[int, int], places: dict[str, int], frame: tuple[int, int]
) -> Drawn:
    require_size(path, f"the image of annotation {regions[0].id}", size, frame)
    canvas = Canvas(size)
    for region in regions:
        try:
            where = _runs(region.shape, size) if isinstance(region.shape, dict) else _filled(region.shape, size)
        except (LookupError, TypeError, ValueError, ArithmeticError) as error:
            problem = f"has a segmentation in annotation {region.id} that cannot be drawn ({error})"
            raise InputError(path, problem, "mend or remove it") from error
        canvas.draw(where, places[region.label])
    return canvas.drawn


def _polygons() -> types.ModuleType:
    """InputError: pycocotools is not there."""
    try:
        return importlib.import_module("pycocotools.mask")
    except ImportError as error:
        remedy = "install pycocotools (make install-import, or pip install pycocotools)"
        raise InputError("pycocotools", "fills COCO's polygons, and is not installed", remedy) from error


def _filled(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> np.ndarray:
    """bool[H,W] of polygons [x, y, x, y, ...]. ValueError: they are none."""
    if not polygons:
        return np.zeros(size, bool)
    for polygon in polygons:
        if len(polygon) % 2:
            raise ValueError(f"{len(polygon)} coordinates")
        require_near(list(zip(polygon[::2], polygon[1::2])), size)
    masks = _polygons()
    united = masks.merge(masks.frPyObjects([list(map(float, each)) for each in polygons], *size))
    return _runs({"size": size, "counts": united["counts"].decode()}, size)


def _runs(shape: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    """bool[H,W] of run lengths, by columns, background first. ValueError: they do not fit."""
    if tuple(shape["size"]) != size:
        raise ValueError(f"its size is {shape['size']}, the image's {list(size)}")
    counts = _uncompressed(shape["counts"]) if isinstance(shape["counts"], str) else shape["counts"]
    pixels = size[0] * size[1]
    # Of Python's numbers, which do not wrap around.
    if not all(type(run) is int and 0 <= run <= pixels for run in counts) or sum(counts) != pixels:
        raise ValueError(f"its runs do not add up to {pixels} pixels")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(size[::-1]).T


def _uncompressed(text: str) -> list[int]:
    """Run lengths of COCO's string: five bits a character from "0" on, the lowest first, 32: more
    follow; from the fourth on the difference to the one before the last (COCO API, maskApi.c)."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("its runs are no string of COCO's")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("its runs are cut off")
    return counts


FORMAT = Format("coco", "COCO JSON", _recognise, _read)
