"""Work of different sizes shared among workers."""

from __future__ import annotations

from collections.abc import Sequence


def balanced(sizes: Sequence[float], workers: int) -> list[list[int]]:
    """Indices of each worker's pieces, ascending: the largest go first, each to who has least so
    far."""
    mine: list[list[int]] = [[] for _ in range(workers)]
    load = [0.0] * workers
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        worker = min(range(workers), key=load.__getitem__)
        load[worker] += sizes[i]
        mine[worker].append(i)
    return [sorted(pieces) for pieces in mine]
