"""Masks in colours of a table that the user gives, beside their images.

<folders>/images/<image>.jpg    or frames/
<folders>/masks/<image>.png     or <image>_mask.png
"""

from __future__ import annotations

import functools
import posixpath

from cffm_jax.data.import_labels.colour_table import read_coloured, read_table
from cffm_jax.data.import_labels.interface import Format, Frame, Labels, unlisted
from cffm_jax.data.import_labels.source import Source, split_of_folders
from cffm_jax.errors import InputError, first_few

_IMAGES, _MASKS, _SUFFIX = ("images", "frames"), "masks", "_mask"


def _recognise(source: Source) -> bool:
    return bool(_pairs(source)[0])


def _pairs(source: Source) -> tuple[dict[str, str], list[str]]:
    """Image -> its mask, and the masks without an image."""
    pairs: dict[str, str] = {}
    lost = []
    images = source.by_stem(file for file in source.images if not set(_IMAGES).isdisjoint(file.split("/")))
    for mask in source.having(".png"):
        folder, name = posixpath.split(posixpath.splitext(mask)[0])
        parts = folder.split("/")
        if _MASKS not in parts:
            continue
        place = len(parts) - 1 - parts[::-1].index(_MASKS)
        stems = [name, name.removesuffix(_SUFFIX)]
        tried = ["/".join((*parts[:place], each, *parts[place + 1 :], stem)) for each in _IMAGES for stem in stems]
        image = next((images[stem] for stem in tried if stem in images), None)
        if image is None:
            lost.append(mask)
        elif image in pairs:
            raise InputError(source.path(mask), f"is a second mask of {image}", "remove one of the two")
        else:
            pairs[image] = mask
    return pairs, lost


def _read(source: Source, colours: str) -> Labels:
    if not colours:
        problem = "holds images and masks, and nothing says what their colours mean"
        raise InputError(source.root, problem, "give a table with --colours FILE, a class a line: road:128,64,128")
    table = read_table(colours)
    pairs, lost = _pairs(source)
    if lost:
        problem = f"is one of {len(lost)} masks without an image ({first_few(lost[1:], 2) or 'no other'})"
        raise InputError(source.path(lost[0]), problem, f"name it as its image, in {_MASKS} beside {_IMAGES[0]}")
    frames = [
        Frame(image, split_of_folders(image), functools.partial(read_coloured, source.path(mask), table), mask)
        for image, mask in pairs.items()
    ]
    frames += unlisted(source, frames)
    return Labels(table.names, f"that of {colours}", frames, table.colours, pairs.values())


FORMAT = Format("colour-masks", "masks in colours of a table", _recognise, _read, table=True, whole=True)
