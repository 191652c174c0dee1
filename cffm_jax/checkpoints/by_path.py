"""Checkpoints named by a path: a run's folder, its folder of checkpoints, or a step in that."""

from __future__ import annotations

from pathlib import Path

from cffm_jax.checkpoints.store import BEST, DAMAGED, FOLDER, Checkpoints
from cffm_jax.errors import InputError


def workdir_of(path: str | Path) -> Path:
    """The run's folder, named by itself, by its ``checkpoints`` folder, or by a step in it."""
    path = Path(path)
    if _names_step(path):
        return path.parent.parent
    return path.parent if path.name == FOLDER else path


def _names_step(path: Path) -> bool:
    return path.parent.name == FOLDER and (path.name == BEST or path.name.isdecimal()) and not path.is_file()


def open_checkpoints(path: str | Path) -> Checkpoints:
    """The checkpoints of an existing run, named as for ``workdir_of``.

    Raises:
      InputError: there are none.
    """
    workdir = workdir_of(path)
    if not (workdir / FOLDER).is_dir():
        raise InputError(path, "no checkpoints here", "name a run's folder, as --workdir of train.py")
    checkpoints = Checkpoints(workdir)
    if checkpoints.latest() is None:
        checkpoints.close()
        raise InputError(workdir / FOLDER, "holds no finished checkpoint", "train first, or name another run")
    return checkpoints


def sound_step(checkpoints: Checkpoints, path: str | Path) -> int:
    """The step that a path names: a number, ``best``, or without either the latest.

    Raises:
      InputError: there is none such, or it is damaged. Another one does not take its place.
    """
    name = Path(path).name if _names_step(Path(path)) else ""
    steps = checkpoints.steps()
    step = checkpoints.best() if name == BEST else int(name) if name else steps[-1]
    others = " ".join(str(other) for other in steps if other != step)
    others = f"name another, of {others}: {checkpoints.directory}/STEP" if others else "there is no other: train anew"
    if step is None:
        raise InputError(path, "no checkpoint of this run was evaluated", others)
    if step not in steps:
        raise InputError(path, "there is no such checkpoint", others)
    damage = checkpoints.damage(step)
    if damage:
        raise InputError(checkpoints.directory / str(step), f"is damaged ({damage})", others)
    return step


def newest_whole(workdir: str | Path) -> tuple[int, tuple[str, ...]]:
    """(a run's latest undamaged step or 0; lines on damaged and unchecked ones). Writes nothing.

    Raises:
      InputError: there are checkpoints, but all are damaged.
    """
    notes = []
    with Checkpoints(workdir) as checkpoints:
        for step in reversed(checkpoints.steps()):
            folder = checkpoints.directory / str(step)
            damage = checkpoints.damage(step)
            if not damage:
                if checkpoints.unchecked(step):
                    notes.append(
                        f"{folder} has no checksums (an earlier version saved it): it can be read, nothing tells more"
                    )
                return step, tuple(notes)
            notes.append(f"{folder} is damaged ({damage}): set aside as {step}{DAMAGED}, the one before is used")
        if notes:
            remedy = "bring back one of them, or start again in another --workdir"
            raise InputError(checkpoints.directory, f"all checkpoints are damaged: {notes[0]}", remedy)
    return 0, ()
