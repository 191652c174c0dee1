"""SIGTERM and Ctrl-C: they end a run after the step that it is in."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from cffm_jax.errors import Stopped

_AGAIN = 2.0
"""Seconds after which ``Stopped`` is raised again: what is raised inside a callback (JAX has one for each garbage
collection) goes no further than that."""


class Interruption:
    """While it is entered, which may be more than once, a signal raises ``Stopped``: at once, or at the end of
    ``deferred``.

    A second Ctrl-C ends the process there and then, which no checkpoint minds. Python allows handlers in the main
    thread alone: in others this does nothing.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._deferring = self._settled = False
        self._caught: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Interruption:
        self._depth += 1
        if self._depth == 1 and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._notice)
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._settle()
            for number, handler in self._before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._caught is None:
            self._caught = signal.Signals(number)
        elif number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
        if not self._deferring and not self._settled:
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)
            raise Stopped(self._caught)

    def _settle(self) -> None:
        self._settled = True
        if self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)

    @contextlib.contextmanager
    def deferred(self, last: bool = False) -> Iterator[None]:
        """Around what must not be torn apart: a signal that comes in here is raised at the end.

        After ``last``, around what is to be done on the way out, nothing is raised any more.
        """
        self._deferring = True
        if last:
            self._settle()
        try:
            yield
        finally:
            self._deferring = False
        if self._caught is not None and not self._settled:
            raise Stopped(self._caught)
