"""Label Studio's "Brush labels to PNG" beside its JSON export.

    task-<id>-annotation-<id>-by-<who>-<tag>-<label>-<number>.png    one binary mask each
    <export>.json                                                    "JSON", not "JSON-MIN"
    the images, under the names that the JSON has, with or without the upload's digits before them

The masks' names say neither which image a task is of nor which mask lies above: the JSON does.
"""

from __future__ import annotations

import functools
import posixpath
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from cffm_jax.data.image_files import read_bytes
from cffm_jax.data.import_labels.interface import Canvas, Drawn, Format, Frame, Labels, unlisted
from cffm_jax.data.import_labels.source import UPLOAD, Source, split_of_folders, without_query
from cffm_jax.data.labels.mask_files import read_values
from cffm_jax.data.layouts.folder import LAYOUT
from cffm_jax.errors import InputError, first_few

_MASK = re.compile(r"task-(\d+)-annotation-(\d+)-by-[^-]*-(.+-\d+)\.png")


def _recognise(source: Source) -> bool:
    return any(_MASK.fullmatch(posixpath.basename(file)) for file in source.having(".png"))


def _masks(source: Source) -> dict[tuple[str, str, str], str]:
    """(Task, annotation, tag with label and number) -> file. InputError: several are of one."""
    masks: dict[tuple[str, str, str], str] = {}
    for file in source.having(".png"):
        match = _MASK.fullmatch(posixpath.basename(file))
        other = masks.setdefault((match[1], match[2], match[3]), file) if match else file
        if other != file:
            raise InputError(source.path(file), f"is there as {other} too", "keep the masks of one export")
    return masks


def _read(source: Source, colours: str) -> Labels:
    files = [file for file, kind in source.json_kinds.items() if kind == "label-studio"]
    if len(files) != 1:
        problem = f"holds brush masks and {len(files)} JSON exports that say which images they are of"
        raise InputError(source.root, problem, 'add the one export as "JSON" (not "JSON-MIN") of the same project')
    (file,) = files
    masks = _masks(source)
    unused = dict(masks)
    frames: list[tuple[Frame, list[tuple[str, str]]]] = []
    missing: list[str] = []
    try:
        tasks = source.json(file)
        for task in tasks:
            said = _image_of(source, file, task)
            folder, name = posixpath.split(said)
            image = source.find(file, said) or source.find(file, posixpath.join(folder, UPLOAD.sub("", name)))
            if image is None:
                missing.append(said)
                continue
            layers = _layers(source, file, task, unused)
            frames.append((Frame(image, split_of_folders(image), None, file), layers))
        notes = _others(tasks)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        problem = f"is not as Label Studio has it ({type(error).__name__}: {' '.join(str(error).split())})"
        raise InputError(source.path(file), problem, "export it again") from error
    source.require_all(file, missing, len(tasks))
    if unused:
        problem = f"lacks {len(unused)} of {len(masks)} masks, such as {first_few(unused.values(), 1)}"
        raise InputError(source.path(file), problem, "export masks and JSON at one time")
    image, count = Counter(frame.file for frame, _ in frames).most_common(1)[0] if frames else ("", 0)
    if count > 1:
        raise InputError(source.path(file), f"has {count} tasks of {image}", "keep one of them")
    names = sorted({label for _, layers in frames for label, _ in layers})
    done = [
        frame._replace(draw=functools.partial(_drawn, source, layers, names)) if layers else frame
        for frame, layers in frames
    ]
    done += unlisted(source, done)
    done = [frame for frame in done if frame.file not in set(masks.values())]
    over = "regions lie over earlier ones of the JSON file"
    return Labels(tuple(names), "that of the alphabet", done, masks=masks.values(), over=over, notes=notes)


def _image_of(source: Source, file: str, task: dict[str, Any]) -> str:
    """The one image that a task's data names. InputError: there are none, or several."""
    texts = [value.split("?d=")[-1] for value in task["data"].values() if isinstance(value, str)]
    # Of an address; a file's name may have a "?" of its own.
    texts = [text if text.lower().endswith(LAYOUT.suffixes) else without_query(text) for text in texts]
    images = [text for text in texts if text.lower().endswith(LAYOUT.suffixes)]
    if len(images) != 1:
        problem = f"names {len(images)} images in task {task['id']}"
        raise InputError(source.path(file), problem, f"give each task one, as {' or '.join(LAYOUT.suffixes)}")
    return images[0]


def _layers(
    source: Source, file: str, task: dict[str, Any], unused: dict[tuple[str, str, str], str]
) -> list[tuple[str, str]]:
    """A task's labels and masks, in the order of its regions; takes the masks out of ``unused``.

    Raises:
      InputError: several annotations have regions, a region has several labels, or no mask.
    """
    given = (each for each in task["annotations"] if not each.get("was_cancelled"))  # Skipped by its annotator.
    brushed = [each for each in given if any(map(_is_brushed, each["result"]))]
    if len(brushed) > 1:
        problem = f"has {len(brushed)} annotations of task {task['id']}: {', '.join(str(a['id']) for a in brushed)}"
        raise InputError(source.path(file), problem, "keep the one that counts, in the JSON and of the masks")
    layers = []
    for annotation in brushed:
        counts: Counter[str] = Counter()
        for region in filter(_is_brushed, annotation["result"]):
            labels = region["value"].get("brushlabels") or region["value"].get("labels") or []
            if len(labels) != 1:
                problem = f"has a region of {len(labels)} labels in task {task['id']}"
                raise InputError(source.path(file), problem, "give each region one label")
            tag = re.sub(r"[/\\]", "-", f"{region['from_name']}-{labels[0]}")
            key = str(task["id"]), str(annotation["id"]), f"{tag}-{counts[tag]}"
            counts[tag] += 1
            if key not in unused:
                problem = f"has a region without a mask, task-{key[0]}-annotation-{key[1]}-by-..-{key[2]}.png"
                raise InputError(source.path(file), problem, "export masks and JSON at one time")
            layers.append((str(labels[0]).strip(), unused.pop(key)))
    return layers


def _is_brushed(region: dict[str, Any]) -> bool:
    return "rle" in region.get("value", {})


def _others(tasks: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """Tells of regions that are in no mask."""
    regions = (region for task in tasks for each in task["annotations"] for region in each["result"])
    kinds = Counter(str(region.get("type")) for region in regions if not _is_brushed(region))
    return tuple(f"{count:,} regions of the kind {kind!r} are in no mask: left out" for kind, count in kinds.items())


def _drawn(source: Source, layers: Sequence[tuple[str, str]], names: list[str], size: tuple[int, int]) -> Drawn:
    canvas = Canvas(size)
    for label, file in layers:
        path = source.path(file)
        values = read_values(path, read_bytes(path)).values
        if values.shape != size:
            problem = f"is {values.shape[1]}x{values.shape[0]} but its frame is {size[1]}x{size[0]}"
            raise InputError(path, problem, "import the images that were annotated")
        odd = int(((values > 0) & (values != values.max())).sum())
        if odd:
            problem = f"has {odd} pixels that are neither in nor out, of {len(np.unique(values))} values"
            raise InputError(path, problem, "export masks without smoothing or resizing")
        canvas.draw(values > 0, names.index(label))
    return canvas.drawn


FORMAT = Format("label-studio", "Label Studio's brush masks", _recognise, _read)
