"""Where frames come from: a video, images, a camera or standard input, as a stream of pictures with times."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import math
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from cffm_jax.errors import InputError

STDIN = "-"


class Frame(NamedTuple):
    """A picture of the input.

    Attributes:
      pixels: u8[H,W,3], RGB, upright.
      number: which frame of the input it is, from 0.
      time: seconds since the input's first frame.
      name: what its mask is called.
    """

    pixels: np.ndarray
    number: int
    time: Fraction
    name: str


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which frames: every so many-th of those from ``start`` on and before ``end``.

    Both are seconds since the first frame, but numbers of frames, from 0, where the input is images.
    """

    start: float = 0.0
    end: float | None = None
    every: int = 1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start) and self.start >= 0):
            raise InputError("--start", f"is {self.start:g}", "give at least 0")
        if self.end is not None and not (math.isfinite(self.end) and self.end > self.start):
            raise InputError("--end", f"is {self.end:g}", f"give more than --start, {self.start:g}")
        if self.every < 1:
            raise InputError("--every", f"is {self.every}", "give at least 1")

    def thinned(self, count: float) -> int:
        """How many frames are taken of ``count`` in a row."""
        return max(0, math.ceil(count / self.every))

    def none_left(self, name: str) -> InputError:
        """The error for an input without a frame from ``start`` to ``end``."""
        if self.end is None:
            return InputError(name, f"has no frame from --start {self.start:g} on", "give an earlier --start")
        problem = f"has no frame from --start {self.start:g} to --end {self.end:g}"
        return InputError(name, problem, "give an earlier --start, or a later --end")


@dataclasses.dataclass
class Source:
    """An open input.

    Attributes:
      name: for messages.
      frames: what was selected, in order, all of one size.
      rate: frames a second of the input, before the selection.
      tick: unit of the frames' times.
      count: how many frames will come, by what the input announces; None: not known.
      live: whether the input ends when its user ends it.
      single: whether it is one image.
      warnings: for the user; they grow until the last frame was read.
    """

    name: str
    frames: Iterator[Frame]
    rate: Fraction
    tick: Fraction
    count: int | None = None
    live: bool = False
    single: bool = False
    warnings: list[str] = dataclasses.field(default_factory=list)


@contextlib.contextmanager
def open_source(inputs: Sequence[str], selection: Selection, rate: float) -> Iterator[Source]:
    """Opens a video, an image, a folder or pattern of images, several images, a camera's index, or standard input.

    Args:
      inputs: what the user named, more than one for images.
      selection: which frames are wanted.
      rate: frames a second of images.

    Raises:
      InputError: nothing of the kind is there, or it cannot be read; also while its frames are read.
    """
    from cffm_jax.media import cameras, images, videos

    with contextlib.ExitStack() as stack:
        name = inputs[0]
        if len(inputs) == 1 and name == STDIN:
            source = stack.enter_context(videos.open_stream(_standard_input(), "standard input", selection))
        elif len(inputs) == 1 and name.isdecimal() and name.isascii() and not os.path.lexists(name):
            source = stack.enter_context(cameras.open_camera(name, selection))
        else:
            paths = list(inputs) if len(inputs) > 1 else _paths(name)
            shown = name if len(inputs) == 1 else f"{name} and {len(inputs) - 1} more"
            if os.path.isdir(name) or images.is_image(paths[0]):
                source = images.open_images(paths, shown, selection, rate)
            elif len(paths) > 1:
                problem = "is no image, and of several files each is a frame"
                raise InputError(paths[0], problem, "name one video alone, or images alone")
            else:
                source = stack.enter_context(videos.open_video(paths[0], selection))
        yield source


def has_magic(name: str) -> bool:
    """Whether it is a pattern of files, if there is none of this name."""
    return any(char in name for char in "*?[")


def _paths(name: str) -> list[str]:
    """The files of one argument: itself, a folder's images, or those that fit a pattern."""
    from cffm_jax.media import images

    try:
        mode = os.stat(name).st_mode
    except OSError as error:
        found = sorted(glob.glob(name, recursive=True)) if has_magic(name) else []
        found = [path for path in found if os.path.isfile(path)]
        if found:
            return images.in_order(found)
        problem = "fits no file" if has_magic(name) else f"cannot be read ({error.strerror})"
        raise InputError(
            name, problem, "name a video, an image, a folder of images, a pattern in quotes or -"
        ) from error
    if stat.S_ISDIR(mode):
        return images.list_images(name)
    if stat.S_ISFIFO(mode):
        raise InputError(name, "is a pipe", "give - and redirect the pipe to standard input")
    if not stat.S_ISREG(mode):
        raise InputError(name, "is no ordinary file", "name a video, an image or a folder of images")
    return [name]


def _standard_input():
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        raise InputError("standard input", "holds nothing to read", "pipe a video into it: python predict.py - < a.mkv")
    return sys.stdin.buffer
