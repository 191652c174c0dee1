"""Progress: a bar on a terminal, plain lines in a log file."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

_EVERY = 30.0
"""Seconds between two lines."""
_LINE = "{desc}: {n_fmt}/{total_fmt} ({percentage:.0f} %), {rate_fmt}, {elapsed} so far, {remaining} left{postfix}"
_LAST = "{desc}: {n_fmt}/{total_fmt}, {rate_fmt}, {elapsed}{postfix}"
_ENDLESS = "{desc}: {n_fmt}, {rate_fmt}, {elapsed}{postfix}"


class Progress(tqdm):
    """tqdm's bar; where standard error is no terminal a line every half minute, and at the end.

    Rate and time left are those of the steady work: what comes before the first update, such as
    compiling, and after ``pause`` before the next, is left out; until there is any, they are "?".
    Without standard error it is silent. The arguments are tqdm's.
    """

    def __init__(self, *args: Any, disable: bool = False, **look: Any):
        self._since: float | None = None
        self._worked, self._counted = 0.0, 0.0
        self._plain, self._line_at, self._told = not _is_drawn(), time.perf_counter(), False
        if self._plain:
            look["delay"] = math.inf  # tqdm itself shows nothing.
        super().__init__(*args, disable=disable or sys.stderr is None, **look)

    def __iter__(self) -> Iterator[Any]:
        try:
            for each in self.iterable:
                yield each
                self.update()
        finally:
            self.close()

    def update(self, n: float | None = 1) -> bool | None:
        if self.disable:
            return None
        now, n = time.perf_counter(), 1 if n is None else n
        if self._since is not None:
            self._worked += now - self._since
            self._counted += n
        self._since = now
        shown = super().update(n)
        if self._plain and now - self._line_at >= _EVERY:
            self._say(_LINE if self.total else _ENDLESS)
        return shown

    def pause(self) -> None:
        """Leaves the time until the next update, which is not counted, out of the rate."""
        self._since = None

    @property
    def format_dict(self) -> dict[str, Any]:
        return {**super().format_dict, "rate": self._counted / self._worked if self._worked else 0.0}

    def clear(self, *args: Any, **options: Any) -> None:
        if not self._plain:
            super().clear(*args, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        return None if self._plain else super().display(msg, pos)  # It returns what the stub hides.

    def close(self) -> None:
        if not self.disable and self._plain and (self.leave or self._told):
            self._say(_LAST if self.total else _ENDLESS)
        super().close()

    def _say(self, form: str) -> None:
        self._line_at, self._told = time.perf_counter(), True
        form = form if self._worked else form.replace(" {rate_fmt},", "").replace(", {remaining} left", "")
        state: dict[str, Any] = {**self.format_dict, "bar_format": form, "ncols": None}
        with self.get_lock():
            print(" ".join(self.format_meter(**state).split()), file=sys.stderr, flush=True)


def _is_drawn() -> bool:
    """Whether what is written over itself can be seen: on a terminal, and in notebooks."""
    return sys.stderr is not None and (sys.stderr.isatty() or type(sys.stderr).__module__ == "ipykernel.iostream")
