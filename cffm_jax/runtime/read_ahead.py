"""Reading ahead, in threads."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def read_ahead(
    pool: Executor, things: Iterable[T], reads: Callable[[T], Iterable[Callable[[], R]]], ahead: int
) -> Iterator[tuple[T, list[R]]]:
    """Yields things in order, each with the results of its ``reads``, which threads call while the
    things before it, so many of them, are in use. What a read raises is raised at its thing."""
    todo, waiting = iter(things), deque[tuple[T, list[Future[R]]]]()
    try:
        while True:
            for thing in itertools.islice(todo, ahead + 1 - len(waiting)):
                waiting.append((thing, [pool.submit(read) for read in reads(thing)]))
            if not waiting:
                return
            thing, futures = waiting.popleft()
            yield thing, [future.result() for future in futures]
    finally:
        for _, futures in waiting:
            for future in futures:
                future.cancel()
