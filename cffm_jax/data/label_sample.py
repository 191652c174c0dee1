"""A look at some training masks before a training begins: what is missing in them is told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cffm_jax.config import IGNORED_LABEL
from cffm_jax.data import decode, mask_files
from cffm_jax.data.image_files import FileName, UnreadableFile
from cffm_jax.data.layouts.records import read_one
from cffm_jax.data.layouts.video import Coding, Video
from cffm_jax.errors import first_few

MOST = 256
"""Masks looked at: half a second of one core for frames of 480p."""
_THREADS = 8
_NAMED = 8
"""Classes named; of more their number alone."""


def named(classes: Sequence[int] | np.ndarray, names: Sequence[str]) -> str:
    """The names of some classes, the first of many."""
    return first_few((names[k] for k in classes), _NAMED)


def one_class(where: str, name: str, ignored: bool) -> tuple[str, str]:
    """What is wrong with masks of one class, and what to do."""
    problem = f"holds one class alone{where}: {name}" + (", and ignored pixels" if ignored else "")
    return problem, "check which value is ignored: binary masks often have 0 and 255, which is ignored here"


Palettes = dict[int, dict[bytes, str]]
"""Value of masks -> its colour in a palette -> the first mask that has it so."""


def add_palette(palettes: Palettes, mask: mask_files.MaskFile, coding: Coding, file: str) -> None:
    """Adds the colours that a mask uses, where these are not stated and so should not matter."""
    if mask.palette is not None and not coding.colours:
        for value in mask_files.values_in_use(mask.values):
            palettes.setdefault(value, {}).setdefault(mask.palette[value : value + 1].tobytes(), file)


def moved_palettes(palettes: Iterable[Palettes]) -> tuple[str, str, str] | None:
    """The first value that has one colour here and another there: file, problem and remedy."""
    colours: Palettes = {}
    for each in palettes:
        for value, found in each.items():
            for colour, file in found.items():
                colours.setdefault(value, {}).setdefault(colour, file)
    moved = sorted(value for value, found in colours.items() if len(found) > 1)
    if not moved:
        return None
    (first, file), (second, other) = list(colours[moved[0]].items())[:2]
    more = f", and so on for {len(moved)} values" if len(moved) > 1 else ""
    problem = f"has value {moved[0]} as {_rgb(second)} in its palette, but {file} as {_rgb(first)}{more}"
    remedy = 'state the classes\' "colours" in classes.json, which then decide, or save all masks with one palette'
    return other, problem, remedy


def _rgb(colour: bytes) -> str:
    return f"({', '.join(map(str, colour))})" if colour else "no colour"


def sampled_masks(videos: Sequence[Video], most: int = MOST) -> list[tuple[FileName, Coding]]:
    """At most so many masks of the targets, spread over the videos and over each one's length."""
    videos = [video for video in videos if video.masks and video.targets]
    if not videos or most < 1:
        return []
    each = max(1, most // len(videos))
    chosen = [videos[i] for i in _spread(len(videos), most)]
    masks = [
        (video.mask(video.targets[i]), video.coding) for video in chosen for i in _spread(len(video.targets), each)
    ]
    return masks[:most]


def _spread(count: int, most: int) -> list[int]:
    """At most so many numbers below ``count``, evenly spread, each once."""
    return sorted({int((i + 0.5) * count / min(count, most)) for i in range(min(count, most))})


def sample_notes(
    videos: Sequence[Video],
    num_classes: int,
    names: Sequence[str],
    fixed_labels: bool,
    held_out: Sequence[Video] = (),
) -> list[str]:
    """Lines about what is missing or odd in a sample of the training masks.

    Masks that cannot be read are left out here: training says, or tolerates, that.

    Args:
      videos: the training split.
      num_classes: K.
      names: of the classes.
      fixed_labels: whether the layout says what masks' values mean, whatever their palettes.
      held_out: the evaluation's split, whose palettes alone are looked at.

    Raises:
      InputError: a mask holds what is no class, or has the wrong kind of pixels.
    """
    masks = sampled_masks(videos)
    total = sum(len(video.targets) for video in videos if video.masks)

    def look(mask: tuple[FileName, Coding]) -> tuple[np.ndarray, Palettes] | None:
        (path, coding), palettes = mask, {}
        try:
            values = mask_files.read_values(path, read_one(path))
        except UnreadableFile:
            return None
        labels = decode.labels_of(path, values, num_classes, coding)
        if not fixed_labels:
            add_palette(palettes, values, coding, str(path))
        return np.bincount(labels.reshape(-1), minlength=256), palettes

    with ThreadPoolExecutor(_THREADS) as pool:
        seen = [each for each in pool.map(look, masks) if each is not None]
        others = [] if fixed_labels else list(pool.map(look, sampled_masks(held_out)))
    if not seen:
        return []
    notes = []
    moved = moved_palettes(palettes for _, palettes in (*seen, *filter(None, others)))
    if moved:
        notes.append(f"palettes: {moved[0]} {moved[1]}; {moved[2]}")
    pixels = np.sum([counts for counts, _ in seen], axis=0)
    there = np.flatnonzero(pixels[:IGNORED_LABEL])
    looked = f"all {total} masks" if len(seen) == total else f"a sample of {len(seen)} of {total} masks"
    about, see = f"labels: the training split, by {looked},", "python -m cffm_jax.data.check says more"
    if not len(there):
        return [*notes, f"{about} holds nothing but ignored pixels: nothing can be learnt; {see}"]
    if len(there) == 1:
        problem, remedy = one_class("", names[there[0]], bool(pixels[IGNORED_LABEL]))
        notes.append(f"{about} {problem}: nothing can be learnt; {remedy}; {see}")
    absent = np.flatnonzero(pixels[:num_classes] == 0)
    if len(absent):
        notes.append(f"{about} has no pixel of {len(absent)} of {num_classes} classes: {named(absent, names)}; {see}")
    empty = sum(not counts[:IGNORED_LABEL].any() for counts, _ in seen)
    if empty:
        notes.append(f"{about} has masks with nothing but ignored pixels ({empty}); {see}")
    return notes
