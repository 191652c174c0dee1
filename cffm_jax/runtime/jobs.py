"""Jobs in threads of several processes that end together."""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import jax
from jax._src import distributed

from cffm_jax.errors import InputError, Stopped
from cffm_jax.runtime import cluster
from cffm_jax.runtime.signals import Interruption

T = TypeVar("T")

_POLL = 0.3
"""Seconds between two looks for signals, and for what the other processes tell."""

_DONE, _STOP = "done", "stop"

_NUMBERS = itertools.count()


def _store() -> Any:
    """JAX's store of keys and values of all processes of the run. It has no public name: what JAX
    offers instead are collectives, which would wait in the way of the jobs' own."""
    return distributed.global_state.client


class _Ending:
    """Which processes are done and whether one wants to stop, told to all of them."""

    def __init__(self) -> None:
        self._several = jax.process_count() > 1
        self._folder = f"cffm_jax/ending/{next(_NUMBERS)}"
        self._words: set[str] = set()

    def tell(self, word: str) -> None:
        if word not in self._words and self._several:
            _store().key_value_set(f"{self._folder}/{jax.process_index()}/{word}", word)
        self._words.add(word)

    def reached(self) -> bool:
        """Whether one stops or all are done; without other processes either word is enough."""
        if not self._several:
            return bool(self._words)
        words = [word for _, word in _store().key_value_dir_get(self._folder)]
        return _STOP in words or words.count(_DONE) == jax.process_count()


def run_together(jobs: Sequence[Callable[[threading.Event], T]], interruption: Interruption | None = None) -> list[T]:
    """Runs jobs, each in its own thread, and gives the results of all processes' jobs, in order.

    All processes have to call it. What ends one ends all, after the job's present piece of work.

    Args:
      jobs: each is given an event, and has to end soon when it is set.
      interruption: of the command, to end by a signal to any of the processes.

    Raises:
      InputError, Stopped: that of a job or of a signal, the same one in all processes.
    """
    interruption = interruption or Interruption()
    stop, ending = threading.Event(), _Ending()
    with interruption.agreeing(True):
        with ThreadPoolExecutor(max(1, len(jobs))) as pool:
            futures = [pool.submit(job, stop) for job in jobs]
            try:
                _wait(futures, ending, interruption)
            finally:
                stop.set()
        error = next(filter(None, (future.exception() for future in futures)), None)
        if error is not None and not isinstance(error, InputError):
            raise error  # A fault of the program: nothing to agree on.
        if interruption.wish:  # It may have ended what a job waited for.
            error = Stopped(signal.Signals(interruption.wish))
        ends = cluster.gathered(([] if error else [future.result() for future in futures], error))
    for _, ended in ends:
        if ended is not None:
            ended.everywhere = True
            raise ended
    return [result for results, _ in ends for result in results]


def _wait(futures: Sequence[Future], ending: _Ending, interruption: Interruption) -> None:
    """Until the work of all processes is done, or one of them cannot or shall not go on."""
    while not ending.reached():
        done, left = wait(futures, _POLL, FIRST_EXCEPTION)
        if interruption.wish or any(future.exception() for future in done):
            ending.tell(_STOP)
        elif not left:
            ending.tell(_DONE)
            if not ending.reached():
                time.sleep(_POLL)  # For the others.
