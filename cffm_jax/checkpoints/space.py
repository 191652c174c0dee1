"""Whether a folder takes a checkpoint, and the disk has room for it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import jax

from cffm_jax.checkpoints.state import TrainState
from cffm_jax.errors import InputError


def require_space(folder: str | Path, state: TrainState) -> None:
    """InputError if a checkpoint of this state, whose shapes will do, does not fit on the disk of a
    (future) folder, or nothing can be written there."""
    needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    folder = Path(folder).absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise InputError(folder, f"cannot be made ({there} takes no files)", "name another folder with --workdir")
    free = shutil.disk_usage(there).free
    if free < needed:
        problem = f"a checkpoint takes {needed / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free"
        raise InputError(folder, problem, "free some space, or name another folder with --workdir")
