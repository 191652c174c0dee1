"""A frame of an input, and which frames of an input are taken."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Literal, NamedTuple

import numpy as np

from cffm_jax.channels import COLOURS, Channels
from cffm_jax.errors import InputError


class Frame(NamedTuple):
    """A picture of the input.

    Attributes:
      pixels: u8[H,W,3], RGB, upright; f32[H,W,K] of other channels.
      number: which frame of the input it is, from 0.
      time: seconds since the input's first frame.
      name: what its mask is called.
      damaged: whether the decoder had to fill gaps, in it or in a frame since the last key frame,
        on which it may build.
      blank: whether no value of it is finite.
    """

    pixels: np.ndarray
    number: int
    time: Fraction
    name: str
    damaged: bool = False
    blank: bool = False


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which frames: every so many-th of those from ``start`` on and before ``end``.

    Both are seconds since the first frame; for images, numbers of frames from 0.
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
class Damage:
    """Which frames were damaged, or blank.

    Attributes:
      kind: "damaged" or "blank", which see `Frame`.
      count: how many.
      ranges: first and last number of those that came one after the other.
      since: when the first came, in seconds.
    """

    kind: Literal["damaged", "blank"] = "damaged"
    count: int = 0
    ranges: list[list[int]] = dataclasses.field(default_factory=list)
    since: float = 0.0
    _before: int = -1

    def note(self, frame: Frame) -> None:
        """Counts a frame, of all in order, if it is of this kind."""
        before, self._before = self._before, frame.number
        if not getattr(frame, self.kind):
            return
        self.count += 1
        if self.ranges and self.ranges[-1][1] == before:
            self.ranges[-1][1] = frame.number
            return
        self.since = self.since if self.ranges else float(frame.time)
        self.ranges.append([frame.number, frame.number])

    @property
    def in_words(self) -> str:
        """One line about it."""
        where = f"from frame {self.ranges[0][0]}, at {self.since:.2f} s, on"
        if self.kind == "blank":
            some = "frame has" if self.count == 1 else "frames have"
            return f"{self.count} {some} no finite value, so that masks of nothing were made ({where})"
        some = "frame is" if self.count == 1 else "frames are"
        return f"{self.count} {some} damaged, or follow a damaged one before the next key frame ({where})"


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
      files: whether each frame is a file, which may hold other channels than RGB.
      channels: of the frames.
      passing: called with the time of each frame before the first that is selected.
      lost: packets so far of which nothing could be decoded.
      warnings: for the user; they grow until the last frame was read.
    """

    name: str
    frames: Iterator[Frame]
    rate: Fraction
    tick: Fraction
    count: int | None = None
    live: bool = False
    single: bool = False
    files: bool = False
    channels: Channels = COLOURS
    passing: Callable[[float], object] | None = None
    lost: int = 0
    warnings: list[str] = dataclasses.field(default_factory=list)

    def read_as(self, channels: Channels) -> None:
        """Has the frames that are still to come read with these channels. InputError: it has RGB
        alone."""
        if not channels.coloured and not self.files:
            problem = f"is a video in RGB, but the network's frames have {', '.join(channels.names)}"
            raise InputError(self.name, problem, "give a folder of its frames: .npy, .tif or .png")
        self.channels = channels
