"""What was read, as the layout folder: classes, frames and masks as indexed PNGs."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from cffm_jax.config import IGNORED_LABEL
from cffm_jax.data.decode import require_one_way, upright_size
from cffm_jax.data.import_labels.interface import NO_LABEL, Drawn, Frame, Labels, image_bytes
from cffm_jax.data.import_labels.source import Source
from cffm_jax.data.import_labels.videos import Placed
from cffm_jax.data.layouts.class_file import first_double
from cffm_jax.data.layouts.folder import LAYOUT
from cffm_jax.drawing.palette import palette
from cffm_jax.errors import InputError, first_few
from cffm_jax.runtime.progress import Progress

Background = Literal["refused", "class", "ignored"]
BACKGROUND = "background"
"""Name of the class of pixels that nothing labels, where they are to be one."""
_IGNORED_COLOURS = ((0, 0, 0), (224, 224, 192), *((grey, grey, grey) for grey in range(255, 0, -1)))
"""Of ignored pixels: the first that no class has. The second is PASCAL VOC's."""


class Classes(NamedTuple):
    """The classes to write.

    Attributes:
      names: K names.
      colours: u8[K,3], RGB.
      table: u8[256], the value to write of each position in `Labels.names` and of ``NO_LABEL``.
      refused: whether a pixel without a label is an error.
      ignored_colour: that of ignored pixels, which no class has.
    """

    names: tuple[str, ...]
    colours: np.ndarray
    table: np.ndarray
    refused: bool
    ignored_colour: tuple[int, int, int]


class Written(NamedTuple):
    """Counts over masks.

    Attributes:
      masks: how many.
      overlap: pixels that have labels of several classes.
      overlapping: masks that have such.
      values: i64[256], pixels of each value.
    """

    masks: int
    overlap: int
    overlapping: int
    values: np.ndarray

    def plus(self, other: Written) -> Written:
        counts = self.masks + other.masks, self.overlap + other.overlap, self.overlapping + other.overlapping
        return Written(*counts, self.values + other.values)


_NOTHING = Written(0, 0, 0, np.zeros(256, np.int64))


def choose_classes(
    read: Labels, names: Sequence[str], ignored: Sequence[str], background: Background, whole: bool
) -> Classes:
    """The classes to write, from those that were read and the options.

    Args:
      read: what was read.
      names: ``--names``: all classes in the order to have; (): as read.
      ignored: ``--ignored``: classes of which the pixels are ignored.
      background: ``--background``.
      whole: whether nothing is without a label, so that there is no background to ask for.

    Raises:
      InputError: the options do not fit to what was read.
    """
    known = first_few(read.names, 8)
    for name in (*read.names, *names):
        if not name or not name.isprintable():
            raise InputError("classes", f"one has the name {name!r}", "give each class a name that can be read")
    double = first_double(read.names)
    if double:
        raise InputError("classes", f"two are called {double!r}", "give each class a name of its own")
    if whole and background != "refused":
        remedy = "leave it out, and name classes that do not count with --ignored"
        raise InputError("--background", "has no use: these masks say what every pixel is", remedy)
    for name in ignored:
        if name not in read.names:
            raise InputError("--ignored", f"names {name!r}, and the classes are {known}", "correct it")
    found = [name for name in read.names if name not in ignored]
    if background == "class":
        if BACKGROUND in read.names:
            problem = f"is class, and there is a class {BACKGROUND!r} already"
            raise InputError("--background", problem, "give --background ignored, or rename the class")
        found.insert(0, BACKGROUND)
    if names:
        lacking = [name for name in found if name not in names]
        double = first_double(names)
        if lacking:
            problem = f"leaves out {first_few(lacking, 4)}"
            raise InputError("--names", problem, "name all classes, and those that do not count with --ignored")
        if double or set(names) & set(ignored):
            twice = double or sorted(set(names) & set(ignored))[0]
            raise InputError("--names", f"names {twice!r} twice, or as ignored too", "name each class once")
        found = list(names)
    most = max(len(found), len(read.names))
    if not 1 <= len(found) <= most < IGNORED_LABEL:
        raise InputError("classes", f"the labels are of {most if found else 0}", f"import 1 to {IGNORED_LABEL - 1}")
    table = np.full(256, IGNORED_LABEL, np.uint8)
    for k, name in enumerate(read.names):
        table[k] = found.index(name) if name in found else IGNORED_LABEL
    if background == "class":
        table[NO_LABEL] = found.index(BACKGROUND)
    refused = background == "refused" and not whole
    own = {} if read.colours is None else dict(zip(read.names, map(tuple, read.colours.tolist())))
    spare = (colour for colour in map(tuple, palette(IGNORED_LABEL).tolist()) if colour not in own.values())
    colours = [own.get(name) or next(spare) for name in found]
    wanted = [own[name] for name in ignored if name in own]
    ignored_colour = next(colour for colour in (*wanted, *_IGNORED_COLOURS) if colour not in colours)
    return Classes(tuple(found), np.array(colours, np.uint8), table, refused, ignored_colour)


def write_dataset(folder: Path, source: Source, placed: Sequence[Placed], classes: Classes, threads: int) -> Written:
    """Fills an empty folder; the bytes do not depend on the number of threads.

    Raises:
      InputError: an image or a mask cannot be used, or they do not fit together.
    """
    for video in {each.video for each in placed}:
        for part in (LAYOUT.frames, LAYOUT.masks):
            (folder / video / part).mkdir(parents=True)
    total = _NOTHING
    write = functools.partial(_write, folder, source, classes)
    with ThreadPoolExecutor(threads) as pool, Progress(total=len(placed), desc="import", unit="frame") as bar:
        try:
            for one in pool.map(write, placed):
                total = total.plus(one)
                bar.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    splits: dict[str, dict[str, None]] = {}
    for each in placed:
        splits.setdefault(each.split, {})[each.video] = None
    for split, videos in splits.items():
        (folder / f"{split}.txt").write_text("".join(f"{video}\n" for video in videos), encoding="utf-8")
    tree = {
        "names": classes.names,
        "colours": classes.colours.tolist(),
        "ignored": IGNORED_LABEL,
        "ignored_colour": classes.ignored_colour,
    }
    (folder / "classes.json").write_text(json.dumps(tree, ensure_ascii=False) + "\n", encoding="utf-8")
    return total


def _write(folder: Path, source: Source, classes: Classes, each: Placed) -> Written:
    """Writes a frame and its mask, and counts."""
    frame = each.frame
    data = image_bytes(source, frame)
    path = source.path(frame.file)
    size, turn = upright_size(path, data)
    suffix = path.suffix
    place = folder / each.video
    (place / LAYOUT.frames / f"{each.name}{suffix}").write_bytes(data)
    if frame.draw is None:
        return _NOTHING
    drawn = frame.draw(size)
    require_one_way(path, source.path(frame.where), size, drawn.labels.shape, turn, None)
    if classes.refused:
        _require_labelled(source, frame, drawn)
    values = classes.table[drawn.labels]
    image = Image.fromarray(values)
    image.putpalette(_palette(classes))
    image.save(place / LAYOUT.masks / f"{each.name}.png")
    return Written(1, drawn.overlap, int(drawn.overlap > 0), np.bincount(values.ravel(), minlength=256))


def _require_labelled(source: Source, frame: Frame, drawn: Drawn) -> None:
    """InputError for pixels without a label, where nothing says what they are."""
    bare = int((drawn.labels == NO_LABEL).sum())
    if bare:
        problem = f"has no label for {bare:,} of {drawn.labels.size:,} pixels (labels of {frame.where})"
        remedy = (
            f"give --background class (they are a class of their own, {BACKGROUND!r}) or ignored (they do not count)"
        )
        raise InputError(source.path(frame.file), problem, remedy)


def _palette(classes: Classes) -> bytes:
    """Of all 256 values."""
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(classes.colours)] = classes.colours
    colours[IGNORED_LABEL] = classes.ignored_colour
    return colours.tobytes()
