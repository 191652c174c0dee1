"""Parts in a process beside: one that fails, dies or outlasts its limit costs its own results alone."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from gpu_checks.rows import Row

START = 180.0
"""Seconds in which a process has to be there."""


class Part(NamedTuple):
    """A function of a ``Bench`` that reports its results.

    Attributes:
      where: it, as ``module:function``.
      limit: seconds that it may take.
      least: seconds that have to be left for it to begin.
      alone: whether it has a process of its own: what holds a GPU's memory keeps it.
    """

    where: str
    limit: float
    least: float
    alone: bool = False


class _Worker:
    """A process that runs parts, one after another, as it is told to."""

    def __init__(self, tiny: bool, folder: Path):
        # A fork of a process with threads can stand still.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, tiny, folder), daemon=True)
        self._process.start()
        theirs.close()  # That its end is seen here.
        self._busy = False

    def about(self, seconds: float) -> dict[str, Any] | None:
        """The first that it says; None if it does not, in this time."""
        with contextlib.suppress(EOFError, OSError):
            return self._pipe.recv() if self._pipe.poll(max(0.0, seconds)) else None
        return None

    def run(self, name: str, where: str, seconds: float, keep: Callable[[Row], None]) -> Row | None:
        """Runs a part; None, or what became of the process, which then is of no more use."""
        until = time.monotonic() + seconds
        self._busy = True
        try:
            self._pipe.send((name, where))
            while self._pipe.poll(max(0.0, until - time.monotonic())):
                row = self._pipe.recv()
                if row is None:
                    self._busy = False
                    return None
                keep(row)
            return Row(name, "out of time", f"after {seconds:.0f} s")
        except (EOFError, OSError):
            self._process.join(10)
            return Row(name, "worker died", f"exit status {self._process.exitcode}")

    def end(self) -> None:
        """Ends the process: one that has nothing to do leaves by itself."""
        self._pipe.close()
        if not self._busy:
            self._process.join(10)
        self._process.kill()
        self._process.join()


def run_parts(
    parts: Mapping[str, Part],
    names: Iterable[str],
    budget: float,
    tiny: bool,
    folder: Path,
    keep: Callable[[Row], None],
    about: Callable[[dict[str, Any]], None],
) -> None:
    """Runs parts in their order.

    Args:
      parts: all that there are, by name.
      names: of those to run.
      budget: seconds for all of them.
      tiny: whether sizes are, for a CPU; then the parts have no limits of their own, which are a GPU's.
      folder: for files that parts leave to later ones.
      keep: is given each row as it comes.
      about: is given what the first process says of the device.
    """
    deadline, told = time.monotonic() + budget, False
    worker: _Worker | None = None
    shared = True
    try:
        for name in names:
            part, left = parts[name], deadline - time.monotonic()
            if left < part.least:
                keep(Row(name, "not begun", f"{max(0.0, left):.0f} s were left of {part.least:.0f}"))
                continue
            if worker and (part.alone or not shared):
                worker.end()
                worker = None
            fault = None
            if worker is None:
                worker, shared = _Worker(tiny, folder), not part.alone
                said = worker.about(min(START, left))
                if not said:
                    fault = Row(name, "no worker", "its process did not start; its errors stand above")
                elif not told:
                    about(said)
                    told = True
            left = deadline - time.monotonic()
            fault = fault or worker.run(name, part.where, left if tiny else min(part.limit, left), keep)
            if fault:
                keep(fault)
                worker.end()
                worker = None
    finally:
        if worker:
            worker.end()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)


def _work(pipe: Connection, tiny: bool, folder: Path) -> None:
    """The other process's part of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Its parent ends it,
    threading.Thread(target=_leave_with_parent, daemon=True).start()  # and is not outlived: a GPU's memory is kept.
    bench_module = importlib.import_module("gpu_checks.bench")
    pipe.send(bench_module.about())
    with contextlib.suppress(EOFError):  # The parent has gone.
        while True:
            name, where = pipe.recv()
            bench = bench_module.Bench(name, tiny, folder, pipe.send)
            module, _, function = where.partition(":")
            try:
                getattr(importlib.import_module(module), function)(bench)
            except Exception as error:  # Whatever it is: the other parts are still to come.
                bench.report("failed", f"{type(error).__name__}: {' '.join(str(error).split())[:400]}")
            bench_module.forget()
            pipe.send(None)
