"""Consistency of ground truth: how much stays the same from frame to frame (CFFM++ section 3.1).

    python -m cffm_jax.data.consistency data/VSPW_480p --split val

The paper gives "the mIoU between the ground-truth masks of consecutive video frames" of VSPW's val
split as 89.7 % and does not say how it is averaged. Here: the IoU of every class that occurs in
either mask of a pair, their mean, and the mean of that over all pairs of all videos. Beside it the
other reading: every class's intersections and unions are summed over the whole split first, as for
a published mIoU. Pixels that either mask ignores do not count.

Needs neither a model nor JAX.
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal

import numpy as np
import tyro

from cffm_jax.config import IGNORED_LABEL, LayoutName
from cffm_jax.data import decode
from cffm_jax.data.layouts.read import layouts_with, read_split
from cffm_jax.data.layouts.video import Video
from cffm_jax.errors import InputError
from cffm_jax.rules import required
from cffm_jax.runtime.command_line import parse_command, run_command
from cffm_jax.runtime.progress import Progress

if TYPE_CHECKING:
    _Suited = LayoutName
else:
    _Suited = Literal[layouts_with(lambda layout: not layout.single_masks)]
_ANY = IGNORED_LABEL - 1
"""The statistic does not depend on the number of classes: masks are read with the largest."""


@dataclasses.dataclass(frozen=True, eq=False)
class Consistency:
    """Sums over pairs of consecutive masks.

    Attributes:
      mious: f64[n], the mIoU of each pair that has a pixel to count.
      intersections: i64[255], pixels of each class that have it in both masks.
      unions: i64[255], pixels of each class that have it in either.
    """

    mious: np.ndarray
    intersections: np.ndarray
    unions: np.ndarray

    @classmethod
    def empty(cls) -> Consistency:
        zeros = np.zeros(IGNORED_LABEL, np.int64)
        return cls(np.zeros(0), zeros, zeros)

    def update(self, before: np.ndarray, after: np.ndarray) -> Consistency:
        """Adds two masks u8[H,W], 255 = ignored; nothing where no pixel is labelled in both."""
        joined = before.astype(np.uint16) << 8 | after
        table = np.bincount(joined.reshape(-1), minlength=1 << 16).reshape(256, 256)[:IGNORED_LABEL, :IGNORED_LABEL]
        both = np.diag(table)
        either = table.sum(0) + table.sum(1) - both
        occurs = either > 0
        if not occurs.any():
            return self
        pair = Consistency(np.array([np.mean(both[occurs] / either[occurs])]), both, either)
        return self.merge(pair)

    def merge(self, other: Consistency) -> Consistency:
        return Consistency(
            np.concatenate([self.mious, other.mious]),
            self.intersections + other.intersections,
            self.unions + other.unions,
        )

    def mean_of_pairs(self) -> float:
        """Mean over the pairs of their mIoU; nan without any."""
        return math.fsum(self.mious.tolist()) / len(self.mious) if len(self.mious) else math.nan

    def of_all_pairs(self) -> float:
        """Mean over the classes of the IoU over all pairs at once; nan without any."""
        occurs = self.unions > 0
        return float(np.mean(self.intersections[occurs] / self.unions[occurs])) if occurs.any() else math.nan


def video_consistency(video: Video, seen: Callable[[], object] = lambda: None) -> Consistency:
    """Consistency of one video's masks, each of which is read once; ``seen`` is called after each.
    A frame without a mask is in no pair.

    Raises:
      InputError: a mask cannot be used, or differs in size from the one before it.
    """
    result, before = Consistency.empty(), None
    for path in video.masks:
        if path is None:
            before = None
            continue
        mask = decode.read_mask(path, _ANY, video.coding)
        if before is not None:
            if mask.shape != before.shape:
                (h, w), (height, width) = mask.shape, before.shape
                problem = f"is {w}x{h}, the mask before it {width}x{height}"
                raise InputError(path, problem, "give a video one size")
            result = result.update(before, mask)
        before = mask
        seen()
    return result


def split_consistency(videos: Sequence[Video]) -> Consistency:
    """Consistency of all videos, several at a time; the same whatever the number of threads.

    Raises:
      InputError: a mask cannot be used.
    """
    result = Consistency.empty()
    total = sum(mask is not None for video in videos for mask in video.masks)
    with Progress(total=total, desc="masks", unit="mask", leave=False) as bar:
        pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
        try:
            for consistency in pool.map(lambda video: video_consistency(video, bar.update), videos):
                result = result.merge(consistency)
        finally:
            pool.shutdown(cancel_futures=True)
    return result


@dataclasses.dataclass(frozen=True)
class Command:
    root: tyro.conf.Positional[str] = required(path=True)
    """Dataset folder."""
    layout: _Suited = "vspw"
    """How it is laid out; Cityscapes labels single frames of its videos, which have no
    consistency."""
    split: str = "val"
    """Split file, without .txt."""


def main(argv: Sequence[str]) -> None:
    """mIoU of consecutive ground-truth masks (CFFM++ section 3.1: 89.7 % on VSPW's val split)."""
    options = parse_command(Command, argv, lambda _: Command(root=tyro.MISSING), main.__doc__)
    videos = read_split(options.root, options.split, layout=options.layout)
    result = split_consistency(videos)
    if not len(result.mious):
        problem = f"split {options.split} has no two consecutive masks with a labelled pixel"
        raise InputError(options.root, problem, "name another split")
    print(f"{options.root}, {options.split}: {len(result.mious)} pairs of consecutive masks, {len(videos)} videos")
    print(f"mIoU of a pair, mean over the pairs:    {100 * result.mean_of_pairs():.2f} %")
    print(f"mIoU of the split, over all its pairs:  {100 * result.of_all_pairs():.2f} %")


if __name__ == "__main__":
    sys.exit(run_command(main))
