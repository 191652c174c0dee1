"""Checkpoints of a run (Orbax): the model's variables, the optimiser's state and the config, apart from each other."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from cffm_jax.config import Config
from cffm_jax.errors import InputError
from cffm_jax.models.cffm import create_model
from cffm_jax.settings import config_from_dict
from cffm_jax.training.state import TrainState

FOLDER = "checkpoints"

# Reading alone is what we ask for: no reason to warn about it.
logging.getLogger("absl").addFilter(lambda record: not re.search("read[_ ]only", record.getMessage()))


class Checkpoints:
    """The checkpoints of one run, in ``<workdir>/checkpoints/<step>``."""

    def __init__(self, workdir: str | Path, keep: int | None = None, create: bool = False):
        self.directory = (Path(workdir) / FOLDER).absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=create, read_only=not create, cleanup_tmp_directories=create
        )
        self._manager = ocp.CheckpointManager(
            self.directory, options=options, item_names=("variables", "optimizer", "config")
        )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
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
        stored = self._restore(step, config=ocp.args.JsonRestore())["config"]
        return config_from_dict(stored, self.directory / str(step))

    def restore_variables(self, step: int, like: Any) -> dict[str, Any]:
        """The model's variables; ``like`` gives shapes, types and, where it has them, shardings."""
        return self._restore(step, variables=ocp.args.StandardRestore(_abstract(like)))["variables"]

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The whole state; ``like`` gives shapes, types and shardings."""
        restored = self._restore(
            step,
            variables=ocp.args.StandardRestore(_abstract(like.variables)),
            optimizer=ocp.args.StandardRestore(_abstract({"opt_state": like.opt_state})),
        )
        return like.replace(
            step=jax.device_put(jax.numpy.int32(step), like.step.sharding),
            params=restored["variables"]["params"],
            batch_stats=restored["variables"]["batch_stats"],
            opt_state=restored["optimizer"]["opt_state"],
        )

    def _restore(self, step: int, **items: ocp.args.CheckpointArgs) -> Any:
        """InputError for a checkpoint that is damaged or has other contents."""
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            remedy = "delete this folder to use the checkpoint before it, or name another run"
            raise InputError(self.directory / str(step), f"cannot be restored ({reason})", remedy) from error


def _abstract(tree: Any) -> Any:
    """Shapes, types and shardings; without a sharding, the first device: that of the run may not be there."""
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def describe(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or here)

    return jax.tree.map(describe, tree)


def workdir_of(path: str | Path) -> Path:
    """The run's folder, named by itself or by its ``checkpoints`` folder."""
    path = Path(path)
    return path.parent if path.name == FOLDER else path


def open_checkpoints(path: str | Path) -> Checkpoints:
    """The checkpoints of an existing run, named by its folder or its ``checkpoints`` folder.

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


def last_step(workdir: str | Path) -> int:
    """Iterations of a run's latest checkpoint, 0 without any; writes nothing."""
    if not (Path(workdir) / FOLDER).is_dir():
        return 0
    with Checkpoints(workdir) as checkpoints:
        return checkpoints.latest() or 0


def require_same_model(stored: Config, asked: Config, source: object, *, name: str = "") -> None:
    """InputError if a checkpoint's parameters are of another model than the config asks for, or of other arithmetic.

    ``name`` stands in for the name that is asked for: CFFM++ starts from its CFFM.
    """
    has, wants = stored.model, asked.model
    wants = dataclasses.replace(wants, name=name or wants.name)
    # What a model gives its backbone where the config says nothing: no or 0.
    resolved = {"blocks": "local_blocks", "global_blocks": "global_blocks", "norm_epsilons": "norm_epsilons"}
    fields = (
        "name", "num_classes", "blocks", "global_blocks", "receptive", "pooling", "mining", "norm_epsilons",
        "projection", "width",
    )  # fmt: skip
    for field in fields:
        pair = [getattr(config, field) for config in (has, wants)]
        if field in resolved:
            pair = [getattr(create_model(**dataclasses.asdict(config)), resolved[field]) for config in (has, wants)]
        if pair[0] != pair[1]:
            value = " ".join(map(str, pair[0])) if isinstance(pair[0], tuple) else pair[0]
            raise InputError(
                source,
                f"is a checkpoint with model.{field} {json.dumps(pair[0])}, but the config says {json.dumps(pair[1])}",
                f"give its own config, or --model.{field} {value}",
            )
