"""Brings labels as annotation programs export them, and datasets, into the layout folder.

    python -m cffm_jax.data.import_labels SOURCE OUT
    python -m cffm_jax.data.import_labels SOURCE OUT --background ignored --ignored void

What it takes for granted it prints; what would have to be guessed it refuses, with exit status 2.
Needs neither a model nor JAX.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import tyro

from cffm_jax.config import IGNORED_LABEL, DataConfig
from cffm_jax.data.import_labels import camvid, coco, colour_masks, davis, label_studio, labelme, roboflow, voc
from cffm_jax.data.import_labels.interface import Format, Labels
from cffm_jax.data.import_labels.source import Source, bytes_of
from cffm_jax.data.import_labels.videos import Placed, Way, arrange
from cffm_jax.data.import_labels.write import Background, Classes, Written, choose_classes, write_dataset
from cffm_jax.data.layouts.classes import plain_name
from cffm_jax.data.layouts.names import passed_over_in_words
from cffm_jax.errors import InputError
from cffm_jax.rules import require_values, required, setting
from cffm_jax.runtime.atomic import WholeFolder, require_new_folder
from cffm_jax.runtime.command_line import parse_command

FORMATS = {
    each.name: each
    for each in (
        voc.FORMAT,
        roboflow.FORMAT,
        label_studio.FORMAT,
        colour_masks.FORMAT,
        coco.FORMAT,
        labelme.FORMAT,
        camvid.FORMAT,
        davis.FORMAT,
    )
}
_UNPACKED = "name the folder of the unpacked export"
_START = 4096
"""Bytes at the start of a file that show whose it is."""
_YOLO = re.compile(r"\s*\d+(?: (?:0|1|[01]?\.\d+|\d(?:\.\d+)?e-\d+)){4,}\s*?(?:\n|$)")
"""The first line of YOLO's labels: a class, and a box or polygon in shares of the image's sides."""
if TYPE_CHECKING:
    _Name = str
else:
    _Name = Literal[("auto", *FORMATS)]


@dataclasses.dataclass(frozen=True)
class Command:
    source: tyro.conf.Positional[str] = required(path=True)
    """Folder with the labels and their images, as they were exported and unpacked."""
    output: tyro.conf.Positional[str] = required(path=True)
    """New folder to write, in the layout "folder"."""
    format: _Name = "auto"
    """How the labels are stored; auto: as the folder's content shows."""
    colours: str = setting("", path=True)
    """Table of the classes' colours for masks in RGB: a text file of a class a line, such as
    road:128,64,128."""
    background: Background = "refused"
    """What pixels without a label are: a class of their own, named background, or ignored in
    training and evaluation. Refused: they are an error."""
    ignored: tuple[str, ...] = ()
    """Classes whose pixels are ignored in training and evaluation, such as void."""
    names: tuple[str, ...] = ()
    """All classes, in the order that they are to have; default: as the labels have them."""
    videos: Way = "auto"
    """What a video is: the frames of a folder, or those whose file names are the same before the
    number at the end. Auto: as a dataset has them, else the folders where there are some."""
    threads: int = setting(min(8, os.cpu_count() or 1), least=1)
    """Frames written at the same time; the result does not depend on it."""


def main(argv: Sequence[str]) -> None:
    """Brings labels of CVAT, Roboflow, Label Studio, labelme or COCO, CamVid and DAVIS into the
    layout "folder"."""
    default = Command(source=tyro.MISSING, output=tyro.MISSING)
    options = parse_command(Command, argv, lambda _: default, main.__doc__)
    require_values(options)
    require_new_folder(options.output, "what is imported")
    inside = os.path.realpath(options.output) + os.sep
    if inside.startswith(os.path.realpath(options.source) + os.sep):
        raise InputError(options.output, f"lies in {options.source}", "name a folder outside of it")
    source = Source(options.source)
    chosen = _format(source, options.format, bool(options.colours))
    if options.colours and not chosen.table:
        raise InputError("--colours", f"has no use: {chosen.title} say what each class is", "leave it out")
    read = chosen.read(source, options.colours)
    if not any(frame.draw for frame in read.frames):
        raise InputError(
            source.root, f"holds no label ({chosen.title}, {len(read.frames)} images)", "label some images"
        )
    classes = choose_classes(read, options.names, options.ignored, options.background, chosen.whole)
    videos = arrange(read.frames, options.videos, source.root)
    print(f"{options.source}: {chosen.title}, {_counts(videos.placed)}")
    for note in (*videos.notes, *read.notes, *_classes_in_words(classes, read, options)):
        print(f"  {note}")
    with WholeFolder(options.output) as made, made.writing() as partial:
        written = write_dataset(partial, source, videos.placed, classes, options.threads)
    used = {*read.masks, *(each.frame.file for each in videos.placed)}
    others = [image for image in source.images if image not in used]
    for note in (*_written_in_words(written, videos.placed, read, classes), *_left_out(others)):
        print(f"  {note}")
    if DataConfig.eval_split not in {each.split for each in videos.placed}:
        print(f"  there is no {DataConfig.eval_split}.txt: move names there to evaluate on, from the others")
    shown = shlex.quote(options.output)
    print(f"{options.output}: written. To check it, and to train:")
    print(f"  python -m cffm_jax.data.check {shown} --layout folder")
    print(f"  python train.py {chosen.training} --data.root {shown}")


def _format(source: Source, name: str, table: bool) -> Format:
    """The format of that name, or the one that fits; ``table``: whether --colours is given.

    Raises:
      InputError: none does, or several.
    """
    if name != "auto":
        if not FORMATS[name].recognise(source):
            problem = f"does not hold {FORMATS[name].title}"
            raise InputError(source.root, problem, f"give another --format, or {_UNPACKED}")
        return FORMATS[name]
    found = [each for each in FORMATS.values() if each.recognise(source)]
    if not found:
        _refuse_others(source)
        known = ", ".join(each.title for each in FORMATS.values())
        problem = f"holds nothing that is known here, in {len(source.files)} files (known: {known})"
        remedy = "put images into images/ and masks of the same names into masks/" if table else _UNPACKED
        raise InputError(source.root, problem, remedy)
    if len(found) > 1:
        titles = " and ".join(each.title for each in found)
        raise InputError(source.root, f"holds {titles}", f"give --format {' or '.join(each.name for each in found)}")
    return found[0]


def _refuse_others(source: Source) -> None:
    """InputError for an export of a program that has another one which is read here: names that."""
    kinds = source.json_kinds
    for file in source.having(".xml", ".json", ".txt"):
        start = bytes_of(source.path(file))[:_START].decode(errors="replace")
        if file.lower().endswith(".xml") and "<annotations" in start:
            problem = 'is of "CVAT for images" or "CVAT for video", which is not read here'
            remedy = 'export the same task from CVAT as "Segmentation mask 1.1", with "Save images"'
        elif file.lower().endswith(".xml") and "<annotation" in start:
            problem = "is of PASCAL VOC's boxes, which do not say which pixels are meant"
            remedy = 'draw areas, and export them as masks, from CVAT as "Segmentation mask 1.1"'
        elif kinds.get(file, "").startswith("label-studio"):
            problem = "is Label Studio's JSON, and there are no brush masks beside it"
            remedy = 'export polygons as "COCO" instead, with the images; of brushes add "Brush labels to PNG"'
        elif file.lower().endswith(".txt") and _YOLO.match(start):
            problem = "is of YOLO, whose text files are not read here"
            remedy = 'export as COCO JSON, or as "Segmentation mask" (CVAT), "Semantic Segmentation Masks" (Roboflow)'
        else:
            continue
        raise InputError(source.path(file), problem, remedy)


def _counts(placed: Sequence[Placed]) -> str:
    videos, masks = {each.video for each in placed}, sum(each.frame.draw is not None for each in placed)
    splits = {split: None for split in (each.split for each in placed)}
    shares = (f"{split} {len({each.video for each in placed if each.split == split})}" for split in splits)
    stated = "" if any(each.frame.split for each in placed) else ", no split stated"
    return f"{len(videos)} videos ({', '.join(shares)}{stated}), {len(placed)} frames, {masks} with labels"


def _classes_in_words(classes: Classes, read: Labels, options: Command) -> list[str]:
    order = "that of --names" if options.names else read.order
    words = ", ".join(f"{k} {name}" for k, name in enumerate(classes.names))
    ignored = f"; ignored: {', '.join(options.ignored)}" if options.ignored else ""
    notes = [f"{len(classes.names)} classes, their order {order}: {words}{ignored}"]
    plain = [plain_name(name) for name in classes.names]
    alike = [name for name, each in zip(classes.names, plain) if plain.count(each) > 1]
    if alike:
        notes.append(f"classes whose names differ in capitals or spaces alone stay apart: {', '.join(alike)}")
    return notes


def _written_in_words(written: Written, placed: Sequence[Placed], read: Labels, classes: Classes) -> list[str]:
    notes = []
    bare = len(placed) - written.masks
    if bare:
        notes.append(f"{bare} frames have no label: they are written without a mask, and are no targets")
    if written.overlap:
        notes.append(
            f"{written.overlap:,} pixels of {written.overlapping} masks have labels of several classes: {read.over}"
        )
    pixels = int(written.values.sum())
    ignored = int(written.values[IGNORED_LABEL])
    if ignored:
        notes.append(f"{ignored:,} of {pixels:,} pixels ({ignored / pixels:.1%}) are ignored")
    absent = [name for k, name in enumerate(classes.names) if not written.values[k]]
    if absent:
        notes.append(f"{len(absent)} classes have no pixel: {', '.join(absent)}")
    return notes


def _left_out(images: Sequence[str]) -> list[str]:
    return [passed_over_in_words(images)] if images else []
