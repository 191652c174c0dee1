"""Batches on the devices, ahead of the steps."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cffm_jax.training.sharding import batch_sharded
from cffm_jax.training.teacher import Teacher

AHEAD = 2
"""Batches on the devices beside the one in use."""


class BatchesAhead:
    """An iterator that sends batches two steps ahead, while the devices compute; the first is read
    at once, so that its faults show.

    ``prototypes`` f32[V, P, C] of all videos: a batch then holds those of its own.

    Attributes:
      shapes: of a batch, with where it lies; until the first is taken.
    """

    def __init__(self, batches: Iterator[dict[str, Any]], mesh: Mesh, prototypes: np.ndarray | None = None):
        self._batches, self._sharding, self._prototypes = batches, batch_sharded(mesh), prototypes
        self._teacher: Teacher | None = None
        self._ahead = deque([self._sent(next(batches))])

    @property
    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        shape_of = functools.partial(jax.ShapeDtypeStruct, sharding=self._sharding)
        return {name: shape_of(array.shape, array.dtype) for name, array in self._ahead[0].items()}

    def teach(self, teacher: Teacher) -> None:
        """Adds a teacher's outputs to all batches, before the first is taken; all processes have to
        call it."""
        self._teacher, self._ahead = teacher, deque(map(teacher, self._ahead))

    def __iter__(self) -> BatchesAhead:
        return self

    def __next__(self) -> dict[str, jax.Array]:
        while len(self._ahead) <= AHEAD and (batch := next(self._batches, None)) is not None:
            self._ahead.append(self._sent(batch))
        if not self._ahead:
            raise StopIteration
        return self._ahead.popleft()

    def _sent(self, batch: dict[str, Any]) -> dict[str, jax.Array]:
        arrays = {name: value for name, value in batch.items() if name != "video"}
        if self._prototypes is not None:
            arrays["prototypes"] = self._prototypes[batch["video"]]
        sent = {name: jax.make_array_from_process_local_data(self._sharding, value) for name, value in arrays.items()}
        return self._teacher(sent) if self._teacher else sent
