"""Weights from anywhere for ``load``, commands and training: our runs and files, others' files."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cffm_jax.checkpoints import by_path, store
from cffm_jax.config import Config
from cffm_jax.errors import InputError
from cffm_jax.models.create import build_model
from cffm_jax.models.methods.method import Method
from cffm_jax.models.variables import compiled_once, draw_variables, flatten, trained_parts, unflatten, variable_shapes
from cffm_jax.weights import hub
from cffm_jax.weights.class_names import of_layout, of_stored
from cffm_jax.weights.described import OF_A_RUN, WHOLE, StoredWeights, stored_weights
from cffm_jax.weights.files.read import FOLDER_FILES, open_weights
from cffm_jax.weights.files.stored_array import StoredArray

RANDOM = "yours: trained from random weights"
_SOURCE = re.compile("(?<=inherited from ).+?(?=: )|(?<=that of ).+?(?=, from which it was trained)")
"""What a notice names, see ``inherited`` and ``licence_of_run``."""


def complete(weights: StoredWeights) -> dict[str, Any]:
    """The variables that are stored; leaves that such files lack start afresh."""
    variables = weights.load()
    if not weights.fresh:
        return variables
    start = random_leaves(weights.model, jax.random.key(0), weights.fresh)
    return unflatten({**flatten(variables), **start})


def random_leaves(model: Method, key: jax.Array, paths: Sequence[str]) -> dict[str, np.ndarray]:
    """Some of the initial leaves of training from nothing; only they are made."""

    def start(key: jax.Array) -> dict[str, jax.Array]:
        leaves = flatten(draw_variables(model, key))
        return {path: leaves[path] for path in paths}

    return jax.device_get(compiled_once(start)(key)) if paths else {}


@contextlib.contextmanager
def open_stored(path: str | Path, *, raw: bool = False, take: str = "") -> Iterator[StoredWeights]:
    """Describes the weights of a run's folder, a file or the hub, to load while open; ``raw`` and
    ``take``: see ``load``.

    Raises:
      InputError: there are none, or they are of no model that is known.
    """
    if hub.is_address(path):
        found = hub.fetch(path)
        with hub.naming(path, found.file), open_weights(found.file) as file:
            weights = stored_weights(dataclasses.replace(file, path=Path(found.source)), take)
            licence = "; ".join(filter(None, (weights.licence, found.licence)))
            yield dataclasses.replace(weights, licence=licence)
        return
    path = Path(path)
    if is_run(path):
        if take:
            raise InputError(path, f"is a run, which holds no weights {take!r}", "leave out --take; see --raw")
        with by_path.open_checkpoints(path) as checkpoints:
            yield _of_run(checkpoints, path, raw)
        return
    if not path.exists():
        remedy = "name the folder of a run, or a file of weights"
        if path.as_posix().count("/") == 1 and not path.is_absolute():
            remedy += f", or {hub.PREFIX}{path.as_posix()} if that is a name on the Hugging Face hub"
        raise InputError(path, "no such file or folder", remedy)
    if path.is_dir() and not any((path / name).is_file() for name in FOLDER_FILES):
        remedy = f"name a run's folder, as --workdir of train.py, or one that holds {' or '.join(FOLDER_FILES)}"
        raise InputError(path, "holds neither checkpoints nor weights", remedy)
    with open_weights(path) as file:
        yield stored_weights(file, take)


def is_run(path: Path) -> bool:
    """Whether it is a run of ours: its folder, its checkpoints' folder, or a checkpoint there."""
    return (by_path.workdir_of(path) / store.FOLDER).is_dir()


def is_weights(path: str | Path) -> bool:
    """Whether it is what ``open_stored`` opens: a file, a run, an address of the hub."""
    if hub.is_address(path):
        return True
    path = Path(path)
    return path.is_file() or is_run(path) or any((path / name).is_file() for name in FOLDER_FILES)


def beside(path: str | Path, name: str) -> Path:
    """Where to put what belongs to weights: into the run's folder, next to their file, or of the
    hub's into the folder one is in."""
    path = Path(hub.file_name(path) if hub.is_address(path) else path)
    if is_run(path):
        return by_path.workdir_of(path) / name
    return path.with_name(f"{path.name}.{name}")


def _of_run(checkpoints: store.Checkpoints, path: Path, raw: bool) -> StoredWeights:
    step = by_path.sound_step(checkpoints, path)
    config = checkpoints.config(step)
    model = build_model(config.model, config.data.frame_channels)
    shapes = variable_shapes(model)
    averaged = tuple(trained_parts(model, shapes["params"])) if checkpoints.has_average(step) and not raw else ()

    @functools.cache
    def restored() -> dict[str, Any]:
        return flatten(jax.device_get(checkpoints.restore_variables(step, shapes, averaged)))

    def describe(name: str, leaf: jax.ShapeDtypeStruct) -> StoredArray:
        return StoredArray(leaf.shape, np.dtype(leaf.dtype), lambda: np.asarray(restored()[name]))

    about = checkpoints.about(step)
    stated = of_stored(about["classes"], config.model.num_classes, "the run") if "classes" in about else None
    return StoredWeights(
        source=str(path),
        origin=f"{OF_A_RUN}, step {step}{', EMA weights' if averaged else ''}",
        step=step,
        part=WHOLE,
        config=config,
        leaves={name: describe(name, leaf) for name, leaf in flatten(shapes).items()},
        licence=licence_of_run(about, config),
        classes=of_layout(config) if stated is None else stated,
    )


def licence_of_run(about: Mapping[str, Any], config: Config) -> str:
    """The notice that a checkpoint holds; early ones hold none, but say what they started from."""
    started = config.init.source
    early = f"that of {started}, from which it was trained" if started else RANDOM
    return str(about.get("licence") or early)


def inherited(source: str, licence: str) -> str:
    """The notice of what is trained from weights with a notice: it names all that came before."""
    return f"inherited from {source}: {licence or 'not known'}"


def to_publish(notice: str) -> str:
    """A notice with base names in the place of local paths; addresses of the hub stay."""

    def name(found: re.Match[str]) -> str:
        return found[0] if hub.is_address(found[0]) else Path(found[0]).name or "a folder"

    return _SOURCE.sub(name, notice)
