"""Labels from which nothing, or not all that is meant, can be learnt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from cffm_jax.config import IGNORED_LABEL, DataConfig
from cffm_jax.data.check.video_files import VideoFound
from cffm_jax.data.labels.label_sample import named, one_class
from cffm_jax.data.layouts.listing import MASKS, Problem
from cffm_jax.data.palettes import Palettes

_WHOLE = "."
"""Stands for the dataset's folder, where a problem is that of all masks."""


def label_problems(
    splits: Mapping[str, Sequence[str]], videos: Mapping[str, VideoFound], names: Sequence[str], *, fixed_labels: bool
) -> list[Problem]:
    """Problems of all masks together: classes without a pixel, one label alone, moved palettes.

    Args:
      splits: split -> names of its videos.
      videos: what was found, by name.
      names: of the classes.
      fixed_labels: whether the layout says what masks' values mean, whatever their palettes.
    """
    problems = [] if fixed_labels else _contradictory_palettes(videos.values())
    labelled = [video for video in videos.values() if video.masks]
    if not labelled:
        return problems
    pixels = _sum(labelled)
    masks = sum(video.masks for video in labelled)
    there = np.flatnonzero(pixels[:IGNORED_LABEL])
    if not len(there):
        problem = f"holds nothing but ignored pixels in its masks ({masks})"
        problems.append(Problem(MASKS, _WHOLE, problem, "check the masks' values, and which of them is ignored"))
        return problems
    if len(there) == 1:
        name = names[there[0]] if there[0] < len(names) else f"class {there[0]}"
        problem, remedy = one_class(f" in its masks ({masks})", name, bool(pixels[IGNORED_LABEL]))
        problems.append(Problem(MASKS, _WHOLE, problem, remedy))
    absent = np.flatnonzero(pixels[: len(names)] == 0)
    if len(absent):
        problem = f"has no pixel of {len(absent)} of {len(names)} classes in its masks: {named(absent, names)}"
        remedy = "correct the masks, or name as classes only those that occur"
        problems.append(Problem(MASKS, _WHOLE, problem, remedy))
    split = DataConfig.train_split
    trained = [videos[name] for name in splits.get(split, ()) if videos[name].masks]
    if trained and len(splits) > 1:
        missing = np.flatnonzero((_sum(trained)[: len(names)] == 0) & (pixels[: len(names)] > 0))
        if len(missing):
            problem = f"has no pixel of {len(missing)} classes that other splits have: {named(missing, names)}"
            problems.append(Problem(MASKS, f"{split}.txt", problem, "move a video with them to this split"))
    for video in labelled:
        if not video.pixels[:IGNORED_LABEL].any():
            problem = f"holds nothing but ignored pixels in its masks ({video.masks})"
            problems.append(Problem(MASKS, video.place, problem, "leave it out, or correct the masks", video.name))
    return problems


def _contradictory_palettes(videos: Iterable[VideoFound]) -> list[Problem]:
    """The first mask whose palette contradicts an earlier one's; nothing tells which are right."""
    palettes = Palettes()
    for video in videos:
        for found, file in video.palettes.items():
            contradiction = palettes.meet(file, found)
            if contradiction:
                return [Problem(MASKS, *contradiction)]
    return []


def _sum(videos: Sequence[VideoFound]) -> np.ndarray:
    """i64[256], pixels of each class in all videos."""
    return np.sum([video.pixels for video in videos], axis=0)
