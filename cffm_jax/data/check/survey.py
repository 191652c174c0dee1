"""All that is in a dataset and all that is wrong with it, found in one walk over every file."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cffm_jax.channels import COLOURS, Channels
from cffm_jax.config import IGNORED_LABEL, DataConfig
from cffm_jax.data.check.labels import label_problems
from cffm_jax.data.check.video_files import VideoFound, look_at_video
from cffm_jax.data.layouts.classes import class_names, count_classes
from cffm_jax.data.layouts.layout import Layout
from cffm_jax.data.layouts.listing import DATASET, DUPLICATES, GROUPS, SHORT, Listed, Problem
from cffm_jax.data.layouts.read import list_dataset, source_of
from cffm_jax.errors import InputError
from cffm_jax.runtime.checksums import relative_name
from cffm_jax.runtime.progress import Progress

_SAME = 0.5
"""Two videos are the same where this share of the shorter one's frames are the same files."""


@dataclasses.dataclass(frozen=True)
class Survey:
    """A dataset.

    Attributes:
      root: its folder.
      splits: split -> names of its videos, each once.
      videos: what was found, by name.
      unlisted: how many video folders no split names.
      names: of the classes.
      problems: everything, in the order of ``GROUPS``.
    """

    root: str
    splits: Mapping[str, tuple[str, ...]]
    videos: Mapping[str, VideoFound]
    unlisted: int
    names: tuple[str, ...]
    problems: tuple[Problem, ...]

    def good(self, split: str) -> tuple[str, ...]:
        """The split's videos without those that a problem says to leave out."""
        bad = {each.video for each in self.problems if each.split in ("", split)}
        return tuple(name for name in self.splits[split] if name not in bad)


def survey(
    root: str,
    splits: Sequence[str],
    *,
    layout: str | Layout = "vspw",
    unlabelled: Sequence[str] = ("test",),
    num_classes: int = 0,
    min_frames: int = 10,
    offsets: Sequence[int] = DataConfig.offsets,
    threads: int = 2,
    channels: Channels = COLOURS,
    moments: bool = False,
) -> Survey:
    """Reads every file of the splits' videos.

    Args:
      root: the dataset's folder.
      splits: names of the splits, as for `read_split`.
      layout: as for `read_split`.
      unlabelled: splits whose videos need no masks.
      num_classes: larger labels are a problem; 0: as many as the class file names, without one as
        VSPW and Cityscapes have, or, in the layout folder, as many as the masks hold.
      min_frames: least length of a video, unless references go by frame numbers, as in Cityscapes.
      offsets: where they do, distances of references from their target; a missing one is a problem.
      channels: of the frames.
      moments: whether to measure `VideoFound.moments`.
      threads: videos read at the same time; the result does not depend on it.

    Raises:
      InputError: there is no such folder, or it has another layout.
    """
    listing = list_dataset(root, layout, splits, unlabelled, offsets)
    problems = list(listing.problems)
    source = source_of(layout, root)
    try:
        num_classes = num_classes or count_classes(root, source)
        names = class_names(root, num_classes, source) if num_classes else ()
    except InputError as error:
        names = ()
        problems.append(Problem(DATASET, relative_name(error.where, root), error.problem, error.remedy))

    palettes = not source.fixed_labels

    def look(listed: Listed) -> VideoFound:
        video = look_at_video(root, listed, num_classes or listed.coding.num_classes, channels, moments, palettes)
        if 0 < video.length < min_frames and not listed.numbered:
            problem = f"has {video.length} frames, fewer than {min_frames}: its clips lack references"
            video.problems.append(Problem(SHORT, listed.place, problem, "leave it out, or accept that", listed.name))
        return video

    wanted = listing.videos.values()
    pool = ThreadPoolExecutor(threads)
    try:
        results = Progress(pool.map(look, wanted), "check", len(wanted), unit="video")
        videos = dict(zip(listing.videos, results, strict=True))
    finally:
        pool.shutdown(cancel_futures=True)
    problems += itertools.chain.from_iterable(video.problems for video in videos.values())
    problems += _duplicates(listing.splits, videos)
    largest = max((int(np.flatnonzero(v.pixels[:IGNORED_LABEL]).max(initial=-1)) for v in videos.values()), default=-1)
    names = names or tuple(f"class {i}" for i in range(num_classes or largest + 1))
    problems += label_problems(listing.splits, videos, names, fixed_labels=source.fixed_labels)
    order = sorted(problems, key=lambda each: GROUPS.index(each.group))
    return Survey(root, listing.splits, videos, listing.unlisted, names, tuple(order))


def _duplicates(splits: Mapping[str, tuple[str, ...]], videos: Mapping[str, VideoFound]) -> list[Problem]:
    """Videos that a later split has too, by name or content: the earlier split is to lose them."""
    homes: dict[bytes, set[str]] = collections.defaultdict(set)
    for video in videos.values():
        for content in video.contents:
            homes[content].add(video.name)
    shared = collections.Counter(
        pair for owners in homes.values() if len(owners) > 1 for pair in itertools.permutations(owners, 2)
    )
    problems = []
    for split, later in itertools.combinations(splits, 2):
        remedy = f"leave it out of one of the two: here of {split}"
        for name in splits[split]:
            if name in splits[later]:
                problem = f"video {name!r} is in {later}.txt too"
                problems.append(Problem(DUPLICATES, f"{split}.txt", problem, remedy, name, split))
        inside = {name: set(splits[name]) for name in (split, later)}
        for (name, other), count in sorted(shared.items()):
            least = min(len(videos[name].contents), len(videos[other].contents))
            if name in inside[split] and other in inside[later] and count >= _SAME * least:
                problem = f"{count} of its frames are those of video {other!r} of {later}"
                problems.append(Problem(DUPLICATES, videos[name].place, problem, remedy, name, split))
    return problems
