"""The lock on a run's folder: all processes of one run share it, another run is refused."""

from __future__ import annotations

import re
from pathlib import Path

from cffm_jax.checkpoints.store import FOLDER
from cffm_jax.errors import InputError
from cffm_jax.runtime import cluster
from cffm_jax.runtime.atomic import unwritable
from cffm_jax.runtime.lock import Lock

_FILE = ".lock"


class RunLock:
    """A context manager that all processes of a run enter; the first one takes the lock.

    The folder of a new run is made when all else has proved sound: it is locked then, by `take`.
    One that is there is locked from the start, before anything in it is read.
    """

    def __init__(self, workdir: Path):
        self._workdir = workdir
        self._lock = Lock(workdir / _FILE, workdir)

    def __enter__(self) -> RunLock:
        """InputError if another run holds it."""
        with cluster.together():
            if cluster.first() and self._workdir.is_dir():
                self._acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def take(self) -> None:
        """Locks the folder, which is there now. InputError if another run was faster."""
        with cluster.together():
            if cluster.first() and not self._lock.held:
                self._acquire()
                steps = self._workdir / FOLDER
                if steps.is_dir() and any(re.fullmatch(r"\d+", path.name) for path in steps.iterdir()):
                    remedy = "the same command goes on from there, or name another --workdir"
                    raise InputError(self._workdir, "another run began there meanwhile, and has ended", remedy)

    def _acquire(self) -> None:
        try:
            self._lock.acquire()
        except OSError as error:
            raise unwritable(self._workdir, error, "name another folder with --workdir") from error
