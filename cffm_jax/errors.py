"""The exceptions that input and signals cause; every command turns them into one line and an exit
status."""

from __future__ import annotations

import signal
from collections.abc import Iterable


def first_few(things: Iterable[object], most: int, between: str = ", ") -> str:
    """Names the first of many things in a message.

    Examples:
      >>> first_few(["a", "b", "c"], 2)
      'a, b and 1 more'
    """
    names = list(map(str, things))
    return between.join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


class InputError(Exception):
    """Something the user gave cannot be used: exit status 2.

    ``everywhere``: all processes of the run raise it at the same point, so that one of them need
    tell.

    The message is one line: the file (or the option), what is wrong, what to do; so are the
    attributes ``where``, ``problem`` and ``remedy``.
    """

    status = 2
    everywhere = False

    def __init__(self, where: object, problem: str, remedy: str):
        # Names may hold anything: what would break the line, or steer the terminal, is spelt out.
        line = f"{where}: {problem}; {remedy}"
        super().__init__("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line))
        self.where, self.problem, self.remedy = str(where), problem, remedy

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str, str]]:
        """Pickled with its three parts: loader processes hand it over."""
        return type(self), (self.where, self.problem, self.remedy)


class Stopped(BaseException):
    """A signal ended the work: exit status 128 + its number, as shells have it (SIGTERM: 143,
    Ctrl-C: 130).

    Like KeyboardInterrupt no ``Exception``: nobody shall take it for an error and go on.
    ``everywhere``: as that of an InputError.
    """

    everywhere = False

    def __init__(self, number: signal.Signals, message: str = ""):
        super().__init__(message or f"stopped by {number.name}")
        self.number, self.status = number, 128 + number

    def __reduce__(self) -> tuple[type[Stopped], tuple[signal.Signals, str]]:
        """Pickled with its two parts: processes hand it over."""
        return type(self), (self.number, str(self))
