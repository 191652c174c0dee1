"""SIGTERM and Ctrl-C: they end a run after the step that it is in."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from cffm_jax.errors import Stopped

_Handler = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None
_AGAIN = 2.0
"""Seconds after which ``Stopped`` is raised again: what is raised inside a callback (JAX has one
for each garbage collection) goes no further than that."""


class Interruption:
    """While entered, even repeatedly, a signal raises ``Stopped``: at once, or after ``deferred``.

    In a run of several processes it waits in ``agreeing`` until all have agreed on the step to stop
    after. A second Ctrl-C ends the process there and then, which no checkpoint minds. Python allows
    handlers in the main thread alone: in others this does nothing.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._deferring = self._settled = self._agreeing = False
        self._caught: signal.Signals | None = None
        self._before: dict[signal.Signals, _Handler] = {}

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
        if not self._deferring and not self._settled and not self._agreeing:
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)
            raise Stopped(self._caught)

    def _settle(self) -> None:
        self._settled = True
        if self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)

    @contextlib.contextmanager
    def deferred(self, last: bool = False) -> Iterator[None]:
        """Guards a block that must not be torn apart: a signal in it is raised at the end.

        After ``last``, around what is to be done on the way out, nothing is raised any more.
        """
        self._deferring = True
        if last:
            self._settle()
        try:
            yield
        finally:
            self._deferring = False
        if self._caught is not None and not self._settled and not self._agreeing:
            raise Stopped(self._caught)

    @contextlib.contextmanager
    def agreeing(self, several: bool) -> Iterator[None]:
        """Guards a step that ``several`` processes take: a signal in it waits for ``stop``."""
        before, self._agreeing = self._agreeing, self._agreeing or several
        try:
            yield
        finally:
            self._agreeing = before

    @property
    def wish(self) -> int:
        """Number of the signal that came; 0: none."""
        return int(self._caught or 0)

    def stop(self, number: int) -> None:
        """Raises ``Stopped``, everywhere, where the processes agreed on a signal."""
        if number:
            self._caught = signal.Signals(number)
            stopped = Stopped(self._caught)
            stopped.everywhere = True
            raise stopped
