"""Frames that a decoder leaves out without a word: their packets came, and they did not."""

from __future__ import annotations

from fractions import Fraction

_LONGER = Fraction(3, 2)
"""Of a frame's duration: so far apart are two frames at least between which one is missing. Two
fields of a frame may have a packet each, and some packets hold no frame to be shown."""


class Gaps:
    """Compares the times of the packets of a video with those of its frames.

    Attributes:
      missing: frames so far that were left out between two that came, or that go back in time.
    """

    def __init__(self, duration: Fraction):
        """``duration``: of a frame, in seconds."""
        self._duration = duration
        self._sent: set[int] = set()
        self._last: int | None = None
        self.missing = 0

    def sent(self, time: int | None) -> None:
        """Notes a packet that goes to the decoder, by its frame's time."""
        if time is not None:
            self._sent.add(time)

    def before(self, time: int | None, unit: Fraction) -> bool:
        """Whether frames are missing before the one of this time, which comes next; or this one
        goes back in time."""
        last, self._last = self._last, time
        if time is None:
            return False
        passed = {sent for sent in self._sent if sent <= time}
        self._sent -= passed
        if last is None or last == time:
            return False
        between = sum(last < sent < time for sent in passed)
        far = (time - last) * unit > _LONGER * self._duration
        lost = 1 if time < last else between if far else 0
        self.missing += lost
        return bool(lost)
