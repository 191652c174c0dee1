"""Whether the disk has room for a checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

import jax

from cffm_jax.checkpoints.state import TrainState
from cffm_jax.errors import InputError


def require_space(folder: str | Path, state: TrainState) -> None:
    """InputError if a checkpoint of this state does not fit on the disk of a (future) folder."""
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    folder = Path(folder).absolute()
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    if free < needed:
        problem = f"a checkpoint takes {needed / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free"
        raise InputError(folder, problem, "free some space, or name another folder with --workdir")
