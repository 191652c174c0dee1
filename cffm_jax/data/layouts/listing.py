"""Files of a dataset and what `check` finds missing: no image is opened, no fault ends it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

from cffm_jax.data.image_files import FileName
from cffm_jax.data.layouts.video import Coding

DATASET, MISSING, UNREADABLE, SIZES = "dataset and split files", "missing files", "unreadable files", "sizes"
MASKS, SHORT, DUPLICATES = "masks", "short videos", "duplicates across splits"
MANIFEST = "files that are not as the manifest says"
GROUPS = (MANIFEST, DATASET, MISSING, UNREADABLE, SIZES, MASKS, SHORT, DUPLICATES)


class Problem(NamedTuple):
    """One thing that is wrong.

    Attributes:
      group: one of ``GROUPS``.
      file: relative to the dataset's folder.
      problem: what is wrong.
      remedy: what to do.
      video: which video to leave out, "" for none.
      split: the split to leave it out of, "" for all.
    """

    group: str
    file: str
    problem: str
    remedy: str
    video: str = ""
    split: str = ""


@dataclasses.dataclass(frozen=True)
class Listed:
    """The files of one video.

    Attributes:
      name: of the video.
      place: its folder, or what stands for it in messages, relative to the dataset's folder.
      frames: files in temporal order, by keys of any kind.
      masks: likewise; a mask has its frame's key.
      coding: what the masks' bytes mean.
      numbered: whether references go by frame numbers, so that a short video may have all of them.
      passed_over: what else lies in its folders, neither frames nor masks.
    """

    name: str
    place: str
    frames: Mapping[str, FileName]
    masks: Mapping[str, FileName]
    coding: Coding
    numbered: bool = False
    passed_over: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Listing:
    """A dataset.

    Attributes:
      splits: split -> names of its videos, each once.
      videos: by name; one that is not there has no files.
      unlisted: how many video folders no split names.
      problems: what is wrong with the folders and the split files.
    """

    splits: Mapping[str, tuple[str, ...]]
    videos: Mapping[str, Listed]
    unlisted: int
    problems: tuple[Problem, ...]
