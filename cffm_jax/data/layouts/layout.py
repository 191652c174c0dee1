"""The interface of a dataset's layout: all that training, evaluation and the tools ask of it.

A layout is a file of this folder with a subclass of `Layout` and its one object, ``LAYOUT``; its
name stands in `config.LayoutName`, and `read.layout_of` gives the object.
"""

from __future__ import annotations

import abc
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cffm_jax.data.layouts.listing import MISSING, Listed, Listing, Problem
from cffm_jax.data.layouts.names import missing_but_for_case
from cffm_jax.data.layouts.video import Video
from cffm_jax.errors import InputError
from cffm_jax.runtime.checksums import relative_name

SPLITS = ("train", "val", "test")
"""Names that splits go by, unless one's own are named."""

Fault = Callable[[InputError], None]
"""Handles a fault: raises it, or notes it and returns, and the place of the fault is left out."""


def stop(error: InputError) -> None:
    """Raises the error: the `Fault` of those who need a split whole."""
    raise error


class Prepared(NamedTuple):
    """A layout's dataset as `prepare` describes it.

    Attributes:
      name: of the dataset in TFDS and of the folder; "" where `prepare` does not take the layout.
      description: in a line or two.
      homepage: an address, "" for none.
      config: a config file to train with.
    """

    name: str = ""
    description: str = ""
    homepage: str = ""
    config: str = "configs/b1_vspw.py"


class Layout(abc.ABC):
    """A way to lay out a dataset's folder.

    Attributes:
      name: the value of ``--data.layout``.
      class_names: of its classes, in the order of their indices; () for a layout of no one dataset.
      class_colours: RGB, one a class; () for those of `palette`.
      fixed_labels: whether the layout says what the masks' bytes mean; else a class file may state
        the ignored label, and how many classes there are says nothing of their names.
      split_place: a split's file or folder, relative to the dataset's folder, with {} for its name.
      split_files: whether a split is a file ``<split>.txt`` with the names of its videos.
      checksummed: whether reading compares checksums of its own, so that a manifest adds nothing.
      single_masks: whether a video has one mask, so that there are no two consecutive ones.
      short_videos_left_out: whether the benchmark's figures leave out videos of at most 16 frames.
      submission_problem: why no zip of masks can be submitted, "" where it can.
      prepared: the dataset's name and description in records.
    """

    name: str
    class_names: tuple[str, ...] = ()
    class_colours: tuple[tuple[int, int, int], ...] = ()
    fixed_labels: bool = True
    split_place: str = "{}.txt"
    split_files: bool = True
    checksummed: bool = False
    single_masks: bool = False
    short_videos_left_out: bool = False
    submission_problem: str = ""
    prepared: Prepared = Prepared()

    @abc.abstractmethod
    def videos(self, root: str, split: str, masks: bool, fault: Fault = stop) -> tuple[Video, ...]:
        """Lists the videos of a split of the folder ``root``; no image is opened.

        With ``masks`` those to train or evaluate on; without, `Video.masks` is empty. What
        ``fault`` returns from is left out.

        Raises:
          InputError: something is missing, or has an unknown name.
        """

    def splits(self, root: str, *, empty: bool = False) -> tuple[str, ...]:
        """Names of those of SPLITS that the folder ``root`` has; ``empty``: files of 0 bytes too.

        Raises:
          InputError: there is none.
        """
        paths = {split: os.path.join(root, self.split_place.format(split)) for split in SPLITS}
        there = [split for split, path in paths.items() if os.path.exists(path) and (empty or os.path.getsize(path))]
        if not there:
            close = next(filter(None, map(missing_but_for_case, paths.values())), "")
            problem = f"has none of {', '.join(map(self.split_place.format, SPLITS))}{close}"
            raise InputError(root, problem, "name the splits with --splits, or another --layout")
        return tuple(there)

    def source(self, root: str) -> str:
        """Name of the layout ``root`` was made of: its classes and rules are the dataset's."""
        return self.name

    def place(self, root: str, split: str, video: Video) -> str:
        """Name of a video in messages of `check`."""
        return relative_name(video.frames[0], root)

    def listing(self, root: str, splits: Sequence[str], unlabelled: Sequence[str], offsets: Sequence[int]) -> Listing:
        """Lists the splits of ``root`` with all that is missing; see `read.list_dataset`."""
        problems: list[Problem] = []

        def note(error: InputError, video: str = "") -> None:
            problems.append(Problem(MISSING, relative_name(error.where, root), error.problem, error.remedy, video))

        names: dict[str, tuple[str, ...]] = {}
        listed: dict[str, Listed] = {}
        for split in splits:
            videos = self.videos(root, split, split not in unlabelled, note)
            names[split] = tuple(video.name for video in videos)
            for video in videos:
                frames = {str(i): frame for i, frame in enumerate(video.frames)}
                masks = {key: mask for key, mask in zip(frames, video.masks) if mask is not None}
                place = self.place(root, split, video)
                about = video.coding, bool(video.numbers), video.passed_over
                listed[video.name] = Listed(video.name, place, frames, masks, *about)
                for target in video.targets if video.masks else ():
                    try:
                        video.references(target, offsets)
                    except InputError as error:
                        note(error, video.name)
        return Listing(names, listed, 0, tuple(dict.fromkeys(problems)))  # A fault of several splits is one.
