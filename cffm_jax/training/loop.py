"""The training run: step, log, evaluate, save; and what ends it before its time."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from pathlib import Path

import jax
import numpy as np

from cffm_jax import cluster
from cffm_jax.config import Config
from cffm_jax.errors import InputError, Stopped
from cffm_jax.inference.evaluate import evaluate
from cffm_jax.inference.scores import main_table
from cffm_jax.metrics import Scores
from cffm_jax.training.checkpoint import Checkpoints, require_space
from cffm_jax.training.interruption import Interruption
from cffm_jax.training.log import RunLog
from cffm_jax.training.setup import Run, prepare
from cffm_jax.training.state import on_one_device


def train(config: Config, interruption: Interruption | None = None) -> dict[str, Scores]:
    """Trains as the config says, or goes on where the run in ``workdir`` stopped. Returns the last evaluation.

    Signals are handled from here on, or by ``interruption`` from before.

    Raises:
      InputError: the config, the data, the initial weights or the checkpoints cannot be used, or loss or gradients were
        not finite too often in a row; the last good step is kept.
      Stopped: by SIGTERM or Ctrl-C; the step that was under way is done and saved.
    """
    plan, workdir = config.train, Path(config.workdir)
    with interruption or Interruption() as interruption, prepare(config) as run:
        with cluster.together():
            if run.start < plan.steps:
                require_space(workdir, run.state)
            make_workdir(workdir)
        with (
            Checkpoints(workdir, plan.keep, create=True) as checkpoints,
            RunLog(workdir, plan.steps, run.start, plan.batch_size, writes=cluster.first()) as log,
        ):
            for line in (*run.notes, run.summary):
                log.say(line)
            checkpoints.set_aside(run.start)
            if cluster.first():
                (workdir / "config.json").write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n")
            training = _Training(config, run, checkpoints, log, interruption)
            try:
                return training.to_the_end()
            except Stopped as stopped:
                with interruption.deferred(last=True):
                    if stopped.everywhere or jax.process_count() == 1:
                        training.save()
                    checkpoints.wait()
                done = f"after step {training.step}{', which is saved' if training.step else ''}"
                message = f"{workdir}: {stopped} {done}; the same command goes on from there"
                stopped.args = (message,)
                raise


class _Training:
    """A run under way.

    Attributes:
      state: after the last step that was started.
      step: its number, known without asking the device.
    """

    def __init__(
        self, config: Config, run: Run, checkpoints: Checkpoints, log: RunLog, interruption: Interruption
    ) -> None:
        self._config, self._run, self._checkpoints = config, run, checkpoints
        self._log, self._interruption = log, interruption
        self._votes = None
        self.step = self._saved = run.start
        self.state = checkpoints.restore(run.start, run.state) if run.start else run.state

    def to_the_end(self) -> dict[str, Scores]:
        plan, workdir = self._config.train, self._config.workdir
        if self._run.start >= plan.steps:
            self._log.say(f"{workdir} has done its {plan.steps} steps already")
        elif self._evaluates(self.step) and self.step not in cluster.from_first(self._checkpoints.evaluations):
            self.evaluate()  # It was stopped before.
        while self.step < plan.steps:
            with self._interruption.agreeing(jax.process_count() > 1):
                began = time.perf_counter()
                batch = next(self._run.clips)
                self._log.step(time.perf_counter() - began)
                with self._interruption.deferred():
                    self.advance(batch)
                self._agree()
            if self._evaluates(self.step):
                self.evaluate()
                self._log.restart_clock()
        self._checkpoints.wait()
        scores = self.evaluate()
        if self._run.start < plan.steps:
            self._log.say(f"{workdir} has done its {plan.steps} steps")
        return scores

    def _agree(self) -> None:
        """Stops all processes after the same step, where one of them got a signal; one process stops by itself."""
        if jax.process_count() == 1:
            return
        self._votes = self._votes or cluster.Votes(self.state.step.sharding.mesh)
        now = self._evaluates(self.step) or self.step == self._config.train.steps  # No step follows at once.
        self._interruption.stop(self._votes.result(self.step, self._interruption.wish, now))

    def _evaluates(self, step: int) -> bool:
        """Whether an evaluation follows a step, other than the last."""
        plan = self._config.train
        return bool(plan.eval_every) and 0 < step < plan.steps and step % plan.eval_every == 0

    def advance(self, batch: dict[str, jax.Array]) -> None:
        """One step, with what is logged and saved after it. Elsewhere the host does not wait for the device."""
        plan = self._config.train
        self.state, metrics = self._run.step(self.state, batch, self._run.key)
        self.step += 1
        # A save has the time of one step: a kill costs no more than the interval and that one.
        self._checkpoints.wait()
        if self.step == self._run.start + 1:  # compiling is no part of the rates
            jax.block_until_ready(self.state)
            self._log.restart_clock()
        last = self.step == plan.steps
        logs = self.step % plan.log_every == 0 or last
        saves = self.step % plan.checkpoint_every == 0 or self._evaluates(self.step) or last
        if logs:
            values = {name: float(value) for name, value in metrics.items()}
            rate = float(self._run.rate(self.step - 1 - int(values["skipped"])))
            self._log.scalars(self.step, {**values, "rate": rate})
        if logs or saves:
            self._require_good()
        if saves:
            self.save()

    def save(self) -> None:
        """Saves the state in the background, unless this step is saved already."""
        if self.step > self._saved:
            self._checkpoints.save(self.state, self._config)
            self._saved = self.step

    def _require_good(self) -> None:
        """InputError if too many iterations in a row were not applied; before, the state of the last good one is saved,
        as it was then."""
        bad = int(self.state.bad_in_a_row)
        if bad < self._config.train.bad_steps:
            return
        first, self.step = self.step - bad + 1, self.step - bad
        then = {"step": self.step, "skipped": int(self.state.skipped) - bad, "bad_in_a_row": 0}
        place = self.state.step.sharding
        self.state = self.state.replace(
            **{name: jax.device_put(np.int32(value), place) for name, value in then.items()}
        )
        self.save()
        self._checkpoints.wait()
        problem = f"loss or gradients were not finite in {bad} iterations in a row, from {first} on"
        kept = f"step {self._saved} is kept; " if self._saved else ""
        remedy = f"{kept}train with a smaller --optim.rate or with --optim.clip_norm, in another --workdir"
        with cluster.together():
            raise InputError(self._config.workdir, problem, remedy)

    def evaluate(self) -> dict[str, Scores]:
        scores = evaluate(self._run.segmenter, on_one_device(self.state.variables), self._run.held_out)
        with self._interruption.deferred():
            self._log.evaluation(self.step, _figures(scores), main_table(scores))
            own = next(iter(scores.values()))  # The others are its parts'.
            self._checkpoints.record(self.step, own.figures().miou)
        return scores


def make_workdir(workdir: Path) -> None:
    """Makes the run's folder, after all that can be wrong with the input has shown itself. InputError if it cannot."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(workdir, f"cannot be made ({error.strerror})", "name another folder with --workdir") from error


def _figures(scores: dict[str, Scores]) -> dict[str, float]:
    """All figures of all rows under ``row/name``; without those that nothing was there to measure."""
    values = {f"{row}/{k}": v for row, s in scores.items() for k, v in dataclasses.asdict(s.figures()).items()}
    return {name: value for name, value in values.items() if not math.isnan(value)}
