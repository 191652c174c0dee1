"""A folder that all processes of a run write: the first makes it, and removes it after an error."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from cffm_jax.errors import InputError
from cffm_jax.runtime import cluster
from cffm_jax.runtime.atomic import WholeFolder

_LOOKS, _BETWEEN = 20, 0.5
"""How often, and after how many seconds each, another process looks for what the first has written:
network file systems may be late."""


def when_all_have_written(work: Callable[[], None]) -> None:
    """Calls in the first process once all have written; all must call, all raise its error."""
    cluster.gathered(None)
    with cluster.together():
        if cluster.first():
            work()


class SharedFolder:
    """A ``WholeFolder`` of all processes: a context manager that all must enter and leave."""

    def __init__(self, folder: str | Path, *, keep: bool = True):
        """``keep``: whether it is there at the end; otherwise it is for the time between."""
        self._made = WholeFolder(folder, overwrite=not keep)
        self._keep = keep

    def __enter__(self) -> SharedFolder:
        """
        Raises:
          InputError: it cannot be made, or another process does not see it.
        """
        with cluster.together():
            if cluster.first():
                self._made.__enter__()
        try:
            self._require_seen()
        except BaseException:
            self._remove()
            raise
        return self

    def _require_seen(self) -> None:
        if jax.process_count() == 1:
            return
        mark = self._made.partial / cluster.gathered(secrets.token_hex(8))[0]
        with cluster.together():
            if cluster.first():
                with self.writing():
                    mark.touch()
        with cluster.together():
            if not any(mark.exists() or time.sleep(_BETWEEN) for _ in range(_LOOKS)):
                problem = f"process {jax.process_index()} does not see what process 0 writes there"
                raise InputError(self._made.folder, problem, "name a folder that all processes share")
        if cluster.first():
            mark.unlink()

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is not None or not self._keep:
            self._remove()
            return
        when_all_have_written(lambda: self._made.__exit__(None))

    def _remove(self) -> None:
        if cluster.first():
            self._made.remove()

    @contextlib.contextmanager
    def writing(self) -> Iterator[Path]:
        """The folder to write into, as of ``WholeFolder``."""
        with self._made.writing() as partial:
            yield partial
