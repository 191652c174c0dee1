"""Predictions in processes of their own, each on some of the cores.

On CPUs a step has parts that use one core, so that two steps on a core each take less time than one
after the other on both.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Collection, Sequence
from multiprocessing.connection import Connection

from tqdm import tqdm

from cffm_jax.errors import InputError, Stopped
from cffm_jax.predict.predictor import Outcome, Predictor, Watch
from cffm_jax.predict.request import Request
from cffm_jax.runtime.lock import InUse

_PATIENCE = 10.0
"""Seconds that a process has to take away what it was making."""


def core_shares(jobs: int) -> list[tuple[int, ...]]:
    """This process's cores, shared out to so many, or as many as there are; [] where they cannot
    be."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    cores = sorted(os.sched_getaffinity(0))
    jobs = min(jobs, len(cores))
    if jobs < 2:
        return []
    bounds = [len(cores) * i // jobs for i in range(jobs + 1)]
    return [tuple(cores[a:b]) for a, b in zip(bounds, bounds[1:])]


class Worker:
    """A process that predicts one video after another, as a ``Predictor``; a context manager."""

    def __init__(self, request: Request, cores: Collection[int]):
        context = multiprocessing.get_context("spawn")  # Of a process with threads no copy is made.
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(request, tuple(cores), theirs), daemon=True)
        self._process.start()
        theirs.close()

    def __call__(self, video: str, folder: str, watch: Watch) -> Outcome:
        """The outcome of a video.

        Raises:
          InputError: as of ``Predictor``, also of its weights.
          InUse: another process is making the folder.

        A process that has ended by itself is an InputError too: mostly memory is too small.
        """
        try:
            self._connection.send((video, folder))
            while not isinstance(said := self._connection.recv(), Outcome):
                if isinstance(said, Exception):
                    raise said
                watch.frame(*said)
        except (EOFError, ConnectionError) as error:
            self._process.join(_PATIENCE)
            problem = f"the process that predicted {video} has ended ({self._process.exitcode})"
            raise InputError("--jobs", problem, "give fewer if memory is too small, or see the lines above") from error
        return said

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        """Ends it; what it was making goes."""
        self._connection.close()
        self._process.terminate()
        self._process.join(_PATIENCE)
        self._process.kill()


class _Sending:
    """Tells the other end of each frame."""

    def __init__(self, connection: Connection):
        self._connection = connection

    def frame(self, path: str, count: int | None) -> None:
        self._connection.send((path, count))


def _serve(request: Request, cores: Sequence[int], connection: Connection) -> None:
    """The process: answers each video with its outcome, or an exception."""
    os.sched_setaffinity(0, cores)  # Before JAX starts its threads.
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first ends the others.
    from cffm_jax.runtime.memory import share_freed_memory
    from cffm_jax.runtime.xla import cache_compilations

    share_freed_memory()
    cache_compilations()
    tqdm.set_lock(threading.RLock())  # Its own is of all processes, and would be left behind by the abrupt end.
    predictor, watch = None, _Sending(connection)
    try:
        while True:
            video, folder = connection.recv()
            try:
                predictor = predictor or Predictor(request)
                connection.send(predictor.predict_on(None, video, folder, watch))
            except (InUse, InputError) as error:
                connection.send(error)
    except (EOFError, ConnectionError, Stopped):
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(0)  # Without JAX's clearing up, which may wait for what it computes.
