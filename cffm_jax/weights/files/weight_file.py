"""A file of weights, described: its state dict, and the others that may be taken."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cffm_jax.weights.files.stored_array import StoredArray


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of the state dicts of a file.

    Attributes:
      name: of the entry that holds it, "ema_state_dict"; "" for the whole file.
      known: whether that is a usual name for weights, of which the first is taken.
      shapes: its arrays, which only describe.
      take: the file with it.
    """

    name: str
    known: bool
    shapes: Mapping[str, StoredArray]
    take: Callable[[], WeightFile]


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """A state dict in a file, described; its arrays can be read while the file is open."""

    path: Path
    """As given."""
    files: tuple[Path, ...]
    """All files that it consists of: for checksums."""
    format: str
    """"torch (zip)", "torch (legacy)", "safetensors", "safetensors, 3 shards", "npz"."""
    arrays: dict[str, StoredArray]
    metadata: dict[str, Any]
    """Plain values: safetensors' own metadata, a checkpoint's ``meta``, config.json as "config"."""
    ignored: tuple[str, ...]
    """Other contents by name: "optimizer", "meta", keys of the state dict that are no arrays."""
    choices: tuple[Choice, ...] = ()
    """All state dicts that it holds, the one above first; () where its format holds one."""
