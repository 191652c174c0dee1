"""Frames between an input and the network: the way to the first, whole ones alone, and kept until
their masks come."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator

import numpy as np

from cffm_jax.errors import InputError
from cffm_jax.media.frame import Frame, Selection, Source
from cffm_jax.runtime.progress import Progress

_WAY = "{l_bar}{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]"


def first_frame(source: Source, selection: Selection) -> Frame:
    """The first of the frames that were selected. InputError: there is none, or it cannot be
    read."""
    with _passing_over(source, selection.start):
        first = next(source.frames, None)
    if first is None:
        raise selection.none_left(source.name)
    return first


@contextlib.contextmanager
def _passing_over(source: Source, start: float) -> Iterator[None]:
    """A bar of the seconds of video that are passed over on the way to ``start``, if it takes
    long: every frame has to be decoded to be counted."""
    look = {"unit": "s", "desc": "to --start", "leave": False, "delay": 2, "disable": not start}
    with Progress(total=start, bar_format=_WAY, **look) as bar:
        source.passing = lambda since: bar.update(since - bar.n)
        yield
    source.passing = None


def whole_frames(source: Source, frames: Iterator[Frame]) -> Iterator[Frame]:
    """The frames up to the first that is damaged, missing or blank: InputError."""
    remedy = "copy it again, or leave out --refuse-damaged"
    for frame in frames:
        if frame.damaged or source.lost:
            what = "follows one that cannot be decoded" if source.lost else "is damaged, or follows one that is"
            raise InputError(source.name, f"frame {frame.number}, at {float(frame.time):.2f} s, {what}", remedy)
        if frame.blank:
            problem = f"frame {frame.number} ({frame.name}) has no finite value: nothing is in it"
            raise InputError(source.name, problem, "write it again, or leave out --refuse-damaged")
        yield frame
    if source.lost:
        raise InputError(source.name, "its last frames cannot be decoded", remedy)


class KeptFrames:
    """The frames' pixels in order; a frame that was taken stays until popped beside its mask."""

    def __init__(self, first: Frame, rest: Iterator[Frame]):
        self._first, self._rest = first, rest
        self._waiting: deque[Frame] = deque()

    def __iter__(self) -> Iterator[np.ndarray]:
        self._waiting.append(self._first)
        yield self._first.pixels
        for frame in self._rest:
            self._waiting.append(frame)
            yield frame.pixels

    def pop(self) -> Frame:
        """The earliest of the frames whose masks did not come before."""
        return self._waiting.popleft()
