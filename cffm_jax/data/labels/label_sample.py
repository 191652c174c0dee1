"""A look at some masks before the work begins: what is missing in them is told."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cffm_jax.config import IGNORED_LABEL
from cffm_jax.data import decode
from cffm_jax.data.image_files import FileName, UnreadableFile
from cffm_jax.data.labels import mask_files
from cffm_jax.data.layouts.read import find_splits, read_split
from cffm_jax.data.layouts.records import read_one
from cffm_jax.data.layouts.video import Coding, Video
from cffm_jax.data.palettes import Claim
from cffm_jax.errors import InputError, first_few

MOST = 256
"""Masks of a sample: half a second of one core for frames of 480p."""
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


def require_splits_agree(root: str, layout: str, splits: Sequence[str], videos: Sequence[Video]) -> None:
    """`require_palettes_agree` for the videos of some splits and those of the others: a network
    knows the order of the split that it was trained on.

    Raises:
      InputError: palettes contradict each other.
    """
    others: list[Video] = []
    if any(video.masks and video.coding.palettes is not None for video in videos):
        # What else is wrong with a split that is not read is no fault here.
        with contextlib.suppress(InputError):
            for split in sorted({*find_splits(root, layout)} - {*splits}):
                with contextlib.suppress(InputError):
                    others += read_split(root, split, True, layout)
    require_palettes_agree((*videos, *others))


def require_palettes_agree(videos: Sequence[Video], most: int = MOST) -> None:
    """Reads a sample of masks where nothing states their colours, see `palettes`. What contradicts
    it beyond the sample is refused where it is read.

    Masks that cannot be used are left out here.

    Raises:
      InputError: their palettes contradict each other.
    """

    def look(mask: tuple[FileName, Coding]) -> tuple[FileName, tuple[Claim, ...]]:
        path, coding = mask
        try:
            return path, mask_files.claims_of_file(path, read_one(path), coding)
        except UnreadableFile:
            return path, ()

    where = {id(video.coding.palettes): video.coding.palettes for video in videos}
    met = [palettes for palettes in where.values() if palettes is not None]
    masks = sampled_masks([video for video in videos if video.coding.palettes is not None], most)
    with ThreadPoolExecutor(_THREADS) as pool:
        for path, found in pool.map(look, masks):
            for palettes in met:
                palettes.require(path, found)


def sample_notes(
    videos: Sequence[Video], num_classes: int, names: Sequence[str], held_out: Sequence[Video] = ()
) -> list[str]:
    """Lines about what is missing or odd in a sample of the training masks.

    Masks that cannot be read are left out here: training says, or tolerates, that.

    Args:
      videos: the training split.
      num_classes: K.
      names: of the classes.
      held_out: the evaluation's split, whose masks are looked at for what cannot be used.

    Raises:
      InputError: a mask holds what is no class, or has the wrong kind of pixels.
    """
    masks = sampled_masks(videos)
    total = sum(len(video.targets) for video in videos if video.masks)

    def look(mask: tuple[FileName, Coding]) -> np.ndarray | None:
        path, coding = mask
        try:
            labels = decode.read_mask(path, num_classes, coding)
        except UnreadableFile:
            return None
        return np.bincount(labels.reshape(-1), minlength=256)

    with ThreadPoolExecutor(_THREADS) as pool:
        seen = [each for each in pool.map(look, masks) if each is not None]
        list(pool.map(look, sampled_masks(held_out)))
    if not seen:
        return []
    notes = []
    pixels = np.sum(seen, axis=0)
    there = np.flatnonzero(pixels[:IGNORED_LABEL])
    looked = f"all {total} masks" if len(seen) == total else f"a sample of {len(seen)} of {total} masks"
    about, see = f"labels: the training split, by {looked},", "python -m cffm_jax.data.check says more"
    if not len(there):
        return [f"{about} holds nothing but ignored pixels: nothing can be learnt; {see}"]
    if len(there) == 1:
        problem, remedy = one_class("", names[there[0]], bool(pixels[IGNORED_LABEL]))
        notes.append(f"{about} {problem}: nothing can be learnt; {remedy}; {see}")
    absent = np.flatnonzero(pixels[:num_classes] == 0)
    if len(absent):
        notes.append(f"{about} has no pixel of {len(absent)} of {num_classes} classes: {named(absent, names)}; {see}")
    empty = sum(not counts[:IGNORED_LABEL].any() for counts in seen)
    if empty:
        notes.append(f"{about} has masks with nothing but ignored pixels ({empty}); {see}")
    return notes
