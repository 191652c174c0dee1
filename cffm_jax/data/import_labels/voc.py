"""CVAT's "Segmentation mask", and PASCAL VOC's folders: masks in the colours of a table.

    labelmap.txt                          label:r,g,b:parts:actions a line
    SegmentationClass/<image>.png         may lie in folders below, as the images do
    JPEGImages/<image>.jpg
    ImageSets/Segmentation/<split>.txt    an image a line, without its suffix

docs.cvat.ai, "Segmentation Mask".
"""

from __future__ import annotations

import functools
import posixpath

from cffm_jax.data.import_labels.colour_table import read_coloured, read_table
from cffm_jax.data.import_labels.interface import Format, Frame, Labels
from cffm_jax.data.import_labels.source import Source, split_of
from cffm_jax.errors import InputError, first_few

_TABLE, _MASKS, _IMAGES, _LISTS = "labelmap.txt", "SegmentationClass/", "JPEGImages/", "ImageSets/Segmentation/"


def _recognise(source: Source) -> bool:
    return any(file.startswith(_MASKS) for file in source.having(".png"))


def _read(source: Source, colours: str) -> Labels:
    if not colours and _TABLE not in source.files:
        raise InputError(source.root, f"has no {_TABLE}", "give a table of the classes' colours with --colours")
    table = read_table(colours or source.path(_TABLE))
    splits = _splits(source)
    marked = source.by_stem(file for file in source.having(".png") if file.startswith(_MASKS))
    masks = {stem[len(_MASKS) :]: file for stem, file in marked.items()}
    found = source.by_stem(file for file in source.images if file.startswith(_IMAGES))
    images = {stem[len(_IMAGES) :]: file for stem, file in found.items()}
    lost = sorted(set(masks) - set(images))
    if lost:
        problem = f"holds {len(masks)} masks, of which {len(lost)} have no image in {_IMAGES}: {first_few(lost, 3)}"
        raise InputError(source.path(_MASKS), problem, 'export with "save images", or copy the images there')
    absent = sorted(set(splits) - set(images))
    if absent:
        problem = f"list {len(absent)} images that are not in {_IMAGES}: {first_few(absent, 3)}"
        raise InputError(source.path(_LISTS), problem, "copy the images there, or correct the lists")
    frames = []
    for name, image in images.items():
        mask = masks.get(name)
        draw = functools.partial(read_coloured, source.path(mask), table) if mask else None
        frames.append(Frame(image, splits.get(name, None if splits else ""), draw, mask or ""))
    order = f"that of {colours or _TABLE}"
    return Labels(table.names, order, frames, table.colours, masks.values())


def _splits(source: Source) -> dict[str, str]:
    """Image -> split, of those that a list names. InputError: two lists name one."""
    lists: dict[str, str] = {}
    for file in source.having(".txt"):
        if not file.startswith(_LISTS):
            continue
        for name in filter(None, map(str.strip, source.text(file).splitlines())):
            other = lists.setdefault(name, file)
            if other != file:
                problem = f"lists {name}, as {posixpath.basename(other)} does"
                raise InputError(source.path(file), problem, "remove one of the lists (trainval.txt beside train.txt)")
    return {name: split_of(posixpath.splitext(posixpath.basename(file))[0]) for name, file in lists.items()}


FORMAT = Format("cvat-masks", "CVAT's segmentation masks", _recognise, _read, table=True, whole=True)
