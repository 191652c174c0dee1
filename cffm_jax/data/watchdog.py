"""Waits for batches, but not for ever: notices and names killed and stuck loader processes."""

from __future__ import annotations

import errno
import multiprocessing
import multiprocessing.process
import queue
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cffm_jax.errors import InputError

_GLANCE = 1.0
"""Seconds between two looks at the processes while a batch is awaited."""


class Watchdog:
    """Calls a loader's ``next`` in a thread of its own, so that whoever waits for it can give up.

    A killed process shows within seconds (Grain looks at the exit status of the one it waits for),
    one that is stuck after ``seconds``. Without processes a stuck thread is noticed too, but no
    program can end its threads: while one waits for its file, the process does not end.

    Args:
      batches: the loader; its processes start with the first ``next``.
      seconds: how long a batch may take; 0: for ever.
    """

    def __init__(self, batches: Iterator[Any], seconds: float):
        self._seconds = seconds
        self._stuck = False
        self._asked: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        self._others = set(multiprocessing.active_children())
        self._processes: set[multiprocessing.process.BaseProcess] = set()
        # A daemon: nobody waits for it at the end of the program.
        threading.Thread(target=_serve, args=(batches, self._asked, self._answers), daemon=True).start()

    def next(self) -> Any:
        """The next batch.

        Raises:
          InputError: a loader process was killed, shared memory is too small, or no batch came in
            time.
          Exception: whatever the loader raised.
        """
        self._asked.put(True)
        began = time.monotonic()
        while True:
            self._look()
            try:
                value, error = self._answers.get(timeout=_GLANCE)
                break
            except queue.Empty:
                if self._seconds and time.monotonic() - began > self._seconds:
                    self._stuck = True
                    raise self._stalled() from None
        if error is None:
            return value
        # The loader itself writes nowhere else; and SIGBUS is how memory that is not there shows
        # itself.
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise _too_small(str(error.strerror)) from error
        if any(process.exitcode == -signal.SIGBUS for process in self._processes):
            raise _too_small("a loader process was ended by SIGBUS") from error
        killed = [f"{p.pid} ({_ending(p.exitcode)})" for p in self._processes if p.exitcode]
        if killed:
            problem = f"loader process {', '.join(killed)} ended before its time"
            raise InputError("--data.workers", problem, "look for lack of memory, or use fewer workers") from error
        raise error

    def _look(self) -> None:
        """Remembers the loader's processes: those that end are listed nowhere any more."""
        self._processes |= set(multiprocessing.active_children()) - self._others

    def _stalled(self) -> InputError:
        living = sorted(process.pid for process in self._processes if process.pid is not None and process.is_alive())
        who = ", ".join(f"{pid} ({_state(pid)})" for pid in living)
        problem = f"no batch within {self._seconds:g} s" + (f" from loader processes {who}" if who else "")
        return InputError("--data.stall-seconds", problem, "look at the storage and the machine's load, or allow more")

    def close(self) -> None:
        """Ends the thread as soon as it has its batch. To be called before the loader's own close:
        stuck processes, for which that would wait, are killed."""
        self._asked.put(False)
        if self._stuck:
            for process in self._processes:
                process.kill()


def _serve(batches: Iterator[Any], asked: queue.SimpleQueue, answers: queue.SimpleQueue) -> None:
    while asked.get():
        try:
            answers.put((next(batches), None))
        except BaseException as error:  # Handed over to whoever waits for it.
            answers.put((None, error))


def _too_small(reason: str) -> InputError:
    """The error for shared memory without the room for batches and locks."""
    remedy = "make it larger (docker run --shm-size 8g), or give --data.workers 0 or a smaller --data.prefetch"
    return InputError("/dev/shm", f"is too small for the loader processes' batches ({reason})", remedy)


def _ending(status: int) -> str:
    """An exit status in words."""
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def _state(pid: int) -> str:
    """State of a process, where the system has it: running, sleeping, disk sleep, stopped."""
    try:
        match = re.search(r"^State:\s+\S \((.+)\)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match[1] if match else "state unknown"
