"""Roboflow's "Semantic segmentation masks".

<split>/_classes.csv         Pixel Value, Class
<split>/<image>.jpg          in train, valid and test
<split>/<image>_mask.png     grey: the value is the class's
"""

from __future__ import annotations

import csv
import functools
import posixpath
import re
from pathlib import Path

import numpy as np

from cffm_jax.data.image_files import read_bytes
from cffm_jax.data.import_labels.interface import NO_LABEL, Drawn, Format, Frame, Labels
from cffm_jax.data.import_labels.source import Source, split_of
from cffm_jax.data.labels.mask_files import read_values
from cffm_jax.errors import InputError, first_few

_TABLE, _MASK = "_classes.csv", "_mask"


def _recognise(source: Source) -> bool:
    return any(_is_header(source.text(file).split("\n")[0].split(",")) for file in _tables(source))


def _tables(source: Source) -> list[str]:
    return [file for file in source.files if posixpath.basename(file) == _TABLE]


def _is_header(row: list[str]) -> bool:
    """Other exports of Roboflow have such a file of other columns."""
    return [part.strip().lower() for part in row] == ["pixel value", "class"]


def _read(source: Source, colours: str) -> Labels:
    tables = {file: _table(source, file) for file in _tables(source)}
    (first, values), *others = tables.items()
    for file, other in others:
        if other != values:
            problem = f"names other classes than {first}"
            raise InputError(source.path(file), problem, "import what was exported together")
    frames: list[Frame] = []
    lost = []
    table = np.full(256, NO_LABEL, np.uint8)
    table[list(values)] = range(len(values))
    for file in tables:
        folder = posixpath.dirname(file)
        here = source.by_stem(image for image in source.images if posixpath.dirname(image) == folder)
        masks = {stem for stem in here if stem.endswith(_MASK) and here[stem].lower().endswith(".png")}
        lost += sorted(mask for mask in masks if mask.removesuffix(_MASK) not in here)
        for stem, image in here.items():
            if stem not in masks:
                mask = here[f"{stem}{_MASK}"] if f"{stem}{_MASK}" in masks else ""
                draw = functools.partial(_drawn, source.path(mask), table) if mask else None
                frames.append(Frame(image, split_of(posixpath.basename(folder)), draw, mask))
    if lost:
        problem = f"holds {len(lost)} masks without an image: {first_few(lost, 3)}"
        raise InputError(source.root, problem, "copy the images there, or remove the masks")
    masks = [frame.where for frame in frames if frame.draw]
    return Labels(tuple(values.values()), f"that of {_TABLE}", frames, masks=masks)


def _table(source: Source, file: str) -> dict[int, str]:
    """Value -> name. InputError: it is not so."""
    remedy = "give lines of a pixel's value, 0 to 255, and a class"
    rows = []
    for number, line in enumerate(source.text(file).splitlines(), 1):
        try:
            # Line by line: a quote that stays open would join the next ones.
            rows += filter(None, csv.reader([line], skipinitialspace=True, strict=True))
        except csv.Error as error:
            raise InputError(source.path(file), f"cannot be read in line {number} ({error})", remedy) from error
    values: dict[int, str] = {}
    for row in rows[1:]:
        value = row[0].strip()
        known = re.fullmatch(r"\d{1,3}", value) and int(value) <= 255
        if len(row) != 2 or not known or int(value) in values:
            raise InputError(source.path(file), f"has the line {','.join(row)[:80]!r}", remedy)
        values[int(value)] = row[1].strip()
    if not rows or not _is_header(rows[0]) or not values:
        raise InputError(source.path(file), "is no table of values and classes", remedy)
    return dict(sorted(values.items()))


def _drawn(path: Path, table: np.ndarray, size: tuple[int, int]) -> Drawn:
    values = read_values(path, read_bytes(path)).values
    labels = table[values]
    unknown = labels == NO_LABEL
    if unknown.any():
        problem = (
            f"has {unknown.sum()} pixels of values that {_TABLE} lacks ({first_few(np.unique(values[unknown]), 3)})"
        )
        raise InputError(path, problem, "complete the table, or export the masks again")
    return Drawn(labels)


FORMAT = Format("roboflow", "Roboflow's semantic segmentation masks", _recognise, _read, whole=True)
