"""Checkpoints of a run (Orbax's V0, see docs/architecture.md): variables, optimiser, config, apart.

A step is written as ``<step>.unsealed`` (by Orbax under a temporary name before), gets the
checksums of its files, and is then renamed to ``<step>``: whatever has that name is whole, unless
it was damaged later, which the checksums tell.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from cffm_jax.checkpoints import unchecked
from cffm_jax.checkpoints.space import require_space
from cffm_jax.checkpoints.state import TrainState
from cffm_jax.config import Config
from cffm_jax.errors import InputError, first_few
from cffm_jax.metrics.metric import number
from cffm_jax.runtime import checksums, cluster
from cffm_jax.runtime.atomic import write_json
from cffm_jax.runtime.devices import device_fault
from cffm_jax.settings import config_from_dict

FOLDER = "checkpoints"
BEST = "best"
"""Stands for the step with the best mIoU: ``<workdir>/checkpoints/best``."""
DAMAGED = ".damaged"
"""Follows the step in the name of a checkpoint that was set aside."""
_UNSEALED, _DELETED = ".unsealed", ".deleted"
_LEFT_OVER = re.compile(rf"\d+(({_UNSEALED})?\.orbax-checkpoint-tmp.*|{_UNSEALED}|{_DELETED})")
_EVALUATIONS = "miou.json"
_COUNTERS, _AVERAGE, _ABOUT = "counters", "ema", "about"
_THREADS = 4  # That compute checksums.
_LOG = logging.getLogger("absl")


class _Silence(logging.Filter):
    """Keeps out of Orbax's log what is no news: that a checkpointer only reads, as asked to, and
    that a save failed, which is one line of ours."""

    _NO_NEWS = re.compile(r"read[_ ]only|Handler Commit operations|_SignalingThread\.run\(\) raised")

    def filter(self, record: logging.LogRecord) -> bool:
        return not self._NO_NEWS.search(record.getMessage())


class Checkpoints:
    """The checkpoints of one run, in ``<workdir>/checkpoints/<step>``.

    Args:
      workdir: the run's folder.
      keep: how many of the latest are kept; the best by mIoU is kept beside them. Default: all.
      create: to write; removes what a killed run left behind. All processes of a run save together,
        the first one seals, notes evaluations and deletes; reading is each process's own.
    """

    def __init__(self, workdir: str | Path, keep: int | None = None, create: bool = False):
        self.directory = (Path(workdir) / FOLDER).absolute()
        self._keep = keep
        self._silence = _Silence()  # Until `close`: saves go on in the background.
        _LOG.addFilter(self._silence)
        # A folder that cannot be made shows at once.
        options = ocp.AsyncOptions(create_directories_asynchronously=False)
        this = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(this, {this}, f"alone{this}")
        by_item = ocp.CompositeOptions(multiprocessing_options=alone)
        self._reader = ocp.Checkpointer(
            ocp.CompositeCheckpointHandler(composite_options=by_item), multiprocessing_options=alone
        )
        self._checkpointer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler(), async_options=options)
        self._sealer = ThreadPoolExecutor(1, "seal")
        self._pending: tuple[int, Future] | None = None
        self._writes = cluster.first()  # One process makes, renames and removes what is on the disk.
        if create:
            with cluster.together():
                if self._writes:
                    self._clear()

    def _clear(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        for path in self.directory.iterdir():
            if _LEFT_OVER.fullmatch(path.name):
                shutil.rmtree(path)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        try:
            self.wait()
        finally:
            self._sealer.shutdown()
            self._checkpointer.close()
            self._reader.close()
            _LOG.removeFilter(self._silence)

    # --- which there are

    def steps(self) -> list[int]:
        """All steps, in order; whether they are damaged only ``damage`` tells."""
        if not self.directory.is_dir():
            return []
        return sorted(int(path.name) for path in self.directory.iterdir() if re.fullmatch(r"\d+", path.name))

    def latest(self) -> int | None:
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """The step with the best mIoU of those that are there."""
        steps = set(self.steps())
        mious = {step: miou for step, miou in self.evaluations().items() if step in steps and miou is not None}
        return max(mious, key=lambda step: (mious[step], -step), default=None)

    def evaluations(self) -> dict[int, float | None]:
        """Evaluated steps -> mIoU, None without labels. InputError if the file is damaged."""
        path = self.directory / _EVALUATIONS
        try:
            return {int(step): miou for step, miou in json.loads(path.read_text()).items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(path, "does not hold the mIoU by step", "delete it, it serves the best step") from error

    def record(self, step: int, miou: float) -> None:
        """Notes an evaluation."""
        if self._writes:
            self._write_evaluations({**self.evaluations(), step: number(miou)})

    def _write_evaluations(self, evaluations: dict[int, float | None]) -> None:
        write_json(self.directory / _EVALUATIONS, evaluations)

    def damage(self, step: int) -> str:
        """What is wrong with a checkpoint's files; "" if they are as saved, or, of ``unchecked``
        ones, if they can be read."""
        folder = self.directory / str(step)
        if self.unchecked(step):
            return unchecked.fault_of(folder)
        try:
            manifest = checksums.read_manifest(str(folder))
            differ = checksums.compare(manifest, checksums.measure(str(folder), {}, _THREADS, progress=False))
            whole = (folder / checksums.NAME).read_bytes().endswith(b"\n")
        except InputError as error:
            return f"{Path(error.where).name} {error.problem}"
        problems = [f"{name} is missing" for name in differ.missing]
        problems += [f"{name} has changed" for name in differ.changed]
        problems += [f"{name} is not in {checksums.NAME}" for name in differ.extra]
        problems += [] if whole else [f"{checksums.NAME} is truncated"]
        return first_few(problems, 1)

    def unchecked(self, step: int) -> bool:
        """Whether it was saved before there were checksums: such steps lack the counters too."""
        folder = self.directory / str(step)
        return not (folder / checksums.NAME).exists() and not (folder / _COUNTERS).exists()

    def set_aside(self, step: int) -> None:
        """Renames all checkpoints after a step: they are damaged."""
        if not self._writes:
            return
        for later in self.steps():
            if later > step:
                aside = self.directory / f"{later}{DAMAGED}"
                shutil.rmtree(aside, ignore_errors=True)
                (self.directory / str(later)).rename(aside)
        evaluations = self.evaluations()
        if any(later > step for later in evaluations):
            self._write_evaluations({s: miou for s, miou in evaluations.items() if s <= step})

    # --- saving

    def save(self, state: TrainState, config: Config, about: Mapping[str, Any] | None = None) -> None:
        """Saves in the background, after the save before it; ``wait`` tells what went wrong.
        ``about``: what else to know of the weights, as JSON can hold it.

        Raises:
          InputError: the save before it failed, or there is not enough space.
        """
        self.wait()
        require_space(self.directory, state)
        step = int(state.step)
        items = ocp.args.Composite(
            variables=ocp.args.StandardSave(state.variables),
            optimizer=ocp.args.StandardSave({"opt_state": state.opt_state}),
            counters=ocp.args.StandardSave(state.counters),
            config=ocp.args.JsonSave(dataclasses.asdict(config)),
            **({_AVERAGE: ocp.args.StandardSave(state.ema)} if state.ema else {}),
            **({_ABOUT: ocp.args.JsonSave(dict(about))} if about else {}),
        )
        with self._saving(step):
            self._checkpointer.save(self.directory / f"{step}{_UNSEALED}", args=items, force=True)
        self._pending = step, self._sealer.submit(self._seal, step)

    def wait(self) -> None:
        """Waits for the save in the background, if there is one. InputError if it failed."""
        if self._pending:
            (step, sealed), self._pending = self._pending, None
            with self._saving(step):
                sealed.result()

    @contextlib.contextmanager
    def _saving(self, step: int) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            if device_fault(error):  # Of the steps before, which nobody has waited for.
                raise
            remedy = "see whether the folder can be written and has space; the checkpoints before it stay"
            raise InputError(
                self.directory / str(step), f"cannot be saved ({unchecked.reason_of(error)})", remedy
            ) from error

    def _seal(self, step: int) -> None:
        """When Orbax is done: checksums, then the name of a whole step; then old ones go."""
        self._checkpointer.wait_until_finished()
        if not self._writes:
            return
        folder = self.directory / f"{step}{_UNSEALED}"
        checksums.write_manifest(str(folder), checksums.measure(str(folder), {}, _THREADS, progress=False))
        folder.rename(self.directory / str(step))
        for old in self.steps()[: -self._keep] if self._keep else ():
            if old != self.best():
                # Renamed first: a kill leaves no half of a step.
                gone = (self.directory / str(old)).rename(self.directory / f"{old}{_DELETED}")
                shutil.rmtree(gone)

    # --- restoring

    def config(self, step: int) -> Config:
        """The config that the checkpoint was trained with."""
        stored = self._restore(step, config=ocp.args.JsonRestore())["config"]
        return config_from_dict(stored, self.directory / str(step))

    def about(self, step: int) -> dict[str, Any]:
        """What else was saved about the weights; {} of versions that saved nothing."""
        there = (self.directory / str(step) / _ABOUT).is_dir()
        return self._restore(step, about=ocp.args.JsonRestore())[_ABOUT] if there else {}

    def has_average(self, step: int) -> bool:
        """Whether it holds a moving average (EMA) of the parameters beside them."""
        return (self.directory / str(step) / _AVERAGE).is_dir()

    def restore_variables(self, step: int, like: Any, average: Collection[str] = ()) -> dict[str, Any]:
        """The model's variables; ``like`` gives shapes, types and, where it has them, shardings.
        Parts of the parameters that ``average`` names (the trained ones) are the moving average."""
        items = {"variables": like}
        if average:
            items[_AVERAGE] = {part: like["params"][part] for part in average}
        restored = self._restore(step, **{k: ocp.args.StandardRestore(_abstract(tree)) for k, tree in items.items()})
        variables = restored["variables"]
        return {**variables, "params": {**variables["params"], **(restored[_AVERAGE] if average else {})}}

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The whole state; ``like`` gives shapes, types and shardings."""
        items = {"variables": like.variables, "optimizer": {"opt_state": like.opt_state}}
        items |= {_AVERAGE: like.ema} if like.ema else {}
        counters = jax.tree.map(lambda leaf: jax.device_put(jax.numpy.int32(0), leaf.sharding), like.counters)
        if (self.directory / str(step) / _COUNTERS).is_dir():
            items[_COUNTERS] = counters
        items = {name: ocp.args.StandardRestore(_abstract(tree)) for name, tree in items.items()}
        restored = self._restore(step, **items)
        return like.replace(
            step=jax.device_put(jax.numpy.int32(step), like.step.sharding),
            params=restored["variables"]["params"],
            batch_stats=restored["variables"]["batch_stats"],
            opt_state=restored["optimizer"]["opt_state"],
            ema=restored[_AVERAGE] if like.ema else None,
            **(restored[_COUNTERS] if _COUNTERS in items else counters),
        )

    def _restore(self, step: int, **items: ocp.args.CheckpointArgs) -> Any:
        """InputError for a checkpoint that is damaged or has other contents."""
        folder = self.directory / str(step)
        try:
            return self._reader.restore(folder, args=ocp.args.Composite(**items))
        except (OSError, ValueError, KeyError, TypeError) as error:
            remedy = "delete this folder to use the checkpoint before it, or name another run"
            raise InputError(folder, f"cannot be restored ({unchecked.reason_of(error)})", remedy) from error


def _abstract(tree: Any) -> Any:
    """Shapes, types and shardings; the first device without one: the run's may not be there."""
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def describe(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or first)

    return jax.tree.map(describe, tree)
