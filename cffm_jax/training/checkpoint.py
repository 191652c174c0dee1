"""Checkpoints of a run (Orbax): the model's variables, the optimiser's state and the config, apart from each other."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from cffm_jax.config import Config
from cffm_jax.errors import InputError
from cffm_jax.settings import config_from_dict
from cffm_jax.training.state import TrainState

FOLDER = "checkpoints"


class Checkpoints:
    """The checkpoints of one run, in ``<workdir>/checkpoints/<step>``."""

    def __init__(self, workdir: str | Path, keep: int | None = None, create: bool = False):
        self.directory = (Path(workdir) / FOLDER).absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=create, read_only=not create, cleanup_tmp_directories=create
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options, item_names=("variables", "optimizer", "config"))

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def latest(self) -> int | None:
        return self._manager.latest_step()

    def save(self, state: TrainState, config: Config) -> None:
        """Saves in the background; errors surface at the next save or at the end."""
        self._manager.save(
            int(state.step),
            args=ocp.args.Composite(
                variables=ocp.args.StandardSave(state.variables),
                optimizer=ocp.args.StandardSave({"opt_state": state.opt_state}),
                config=ocp.args.JsonSave(dataclasses.asdict(config)),
            ),
        )

    def wait(self) -> None:
        self._manager.wait_until_finished()

    def config(self, step: int) -> Config:
        """The config that the checkpoint was trained with."""
        stored = self._manager.restore(step, args=ocp.args.Composite(config=ocp.args.JsonRestore()))["config"]
        return config_from_dict(stored, self.directory / str(step))

    def restore_variables(self, step: int, like: Any) -> dict[str, Any]:
        """The model's variables; ``like`` gives shapes, types and shardings."""
        args = ocp.args.Composite(variables=ocp.args.StandardRestore(_abstract(like)))
        return self._manager.restore(step, args=args)["variables"]

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The whole state; ``like`` gives shapes, types and shardings."""
        args = ocp.args.Composite(
            variables=ocp.args.StandardRestore(_abstract(like.variables)),
            optimizer=ocp.args.StandardRestore(_abstract({"opt_state": like.opt_state})),
        )
        restored = self._manager.restore(step, args=args)
        return like.replace(
            step=jax.device_put(jax.numpy.int32(step), like.step.sharding),
            params=restored["variables"]["params"],
            batch_stats=restored["variables"]["batch_stats"],
            opt_state=restored["optimizer"]["opt_state"],
        )


def _abstract(tree: Any) -> Any:
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)


def open_checkpoints(path: str | Path) -> Checkpoints:
    """The checkpoints of an existing run, named by its folder or its ``checkpoints`` folder.

    Raises:
      InputError: there are none.
    """
    path = Path(path)
    workdir = path.parent if path.name == FOLDER else path
    if not (workdir / FOLDER).is_dir():
        raise InputError(path, "no checkpoints here", "name a run's folder, as --workdir of train.py")
    checkpoints = Checkpoints(workdir)
    if checkpoints.latest() is None:
        raise InputError(workdir / FOLDER, "holds no finished checkpoint", "train first, or name another run")
    return checkpoints


def require_same_model(stored: Config, asked: Config, source: object) -> None:
    """InputError if a checkpoint is of another model than the config asks for."""
    for field in ("name", "num_classes"):
        has, wants = getattr(stored.model, field), getattr(asked.model, field)
        if has != wants:
            raise InputError(
                source,
                f"is a checkpoint with model.{field} {json.dumps(has)}, but the config says {json.dumps(wants)}",
                f"give its own config, or --model.{field} {has}",
            )
