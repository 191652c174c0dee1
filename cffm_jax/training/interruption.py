"""SIGTERM and Ctrl-C: they end a run after the step that it is in."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from cffm_jax.errors import Stopped

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """While it is entered, a signal raises ``Stopped``: at once, or at the end of ``deferred``.

    Only the first one does; a second Ctrl-C ends the process there and then, which no checkpoint minds. Python allows
    handlers in the main thread alone: in others this does nothing.
    """

    def __init__(self) -> None:
        self._deferring = False
        self._caught: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._notice) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._caught is None:
            self._caught = signal.Signals(number)
            if not self._deferring:
                raise Stopped(self._caught)
        elif number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Around what must not be torn apart: a signal that comes in here is raised at the end.

        One that was raised already is not raised again: what is saved on the way out can be deferred too.
        """
        before, self._deferring = self._caught, True
        try:
            yield
        finally:
            self._deferring = False
        if before is None and self._caught is not None:
            raise Stopped(self._caught)
