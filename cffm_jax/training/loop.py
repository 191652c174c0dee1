"""The training run: step, log, evaluate, save; and reasons to end early."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from cffm_jax.checkpoints.store import Checkpoints
from cffm_jax.config import Config
from cffm_jax.config.checks import check_settings
from cffm_jax.data.layouts.classes import with_num_classes
from cffm_jax.errors import InputError, Stopped
from cffm_jax.evaluation.model_scores import evaluate
from cffm_jax.evaluation.pictures import FrameStrips
from cffm_jax.evaluation.score_tables import main_table
from cffm_jax.metrics.scores import Scores
from cffm_jax.runtime import cluster
from cffm_jax.runtime.atomic import write_json
from cffm_jax.runtime.compiling import Compilations
from cffm_jax.runtime.signals import Interruption
from cffm_jax.settings import RUN_CONFIG
from cffm_jax.training import provenance
from cffm_jax.training.log import RunLog
from cffm_jax.training.run_lock import RunLock
from cffm_jax.training.setup import Run, prepare
from cffm_jax.training.sharding import on_each_device
from cffm_jax.training.speed import Profile


def train(
    config: Config,
    interruption: Interruption | None = None,
    *,
    profile: bool = False,
    notes: Sequence[str] = (),
) -> dict[str, Scores]:
    """Trains as the config says, or goes on where the run in ``workdir`` stopped. Returns the last
    evaluation.

    Signals are handled from here on, or by ``interruption`` from before. ``profile``: a trace of a
    few steps goes to ``<workdir>/profile``. ``notes``: lines that the log begins with.

    Raises:
      InputError: the config, the data, the initial weights or the checkpoints cannot be used,
        another run is under way in ``workdir``, or loss or gradients were not finite too often in a
        row; the last good step is kept.
      Stopped: by SIGTERM or Ctrl-C; the step that was under way is done and saved.
    """
    with cluster.together():
        check_settings(config)
        config = with_num_classes(config)
    plan, workdir = config.train, Path(config.workdir)
    began = time.perf_counter()
    with (
        interruption or Interruption() as interruption,
        Compilations() as compilations,
        RunLock(workdir) as lock,
        prepare(config) as run,
    ):
        with cluster.together():
            make_workdir(workdir)
        lock.take()
        log_of = functools.partial(RunLog, writes=cluster.first(), began=began, work=run.work)
        with (
            Checkpoints(workdir, plan.keep, create=True) as checkpoints,
            log_of(workdir, plan.steps, run.start, plan.batch_size) as log,
        ):
            for line in filter(None, (*notes, *run.notes, run.summary, run.memory)):
                log.say(line)
            checkpoints.set_aside(run.start)
            if cluster.first():
                write_json(workdir / RUN_CONFIG, dataclasses.asdict(config))
            if cluster.first() and run.start < plan.steps:
                provenance.write(workdir, config, run.start, run.devices or jax.devices()[:1])
            traced = Profile(workdir / "profile" if profile and cluster.first() else None, run.start, log.say)
            training = _Training(config, run, checkpoints, log, interruption, compilations, traced)
            try:
                return training.to_the_end()
            except Stopped as stopped:
                with interruption.deferred(last=True):
                    if stopped.everywhere or jax.process_count() == 1:
                        training.save()
                    checkpoints.wait()
                    training.say_times()
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
        self,
        config: Config,
        run: Run,
        checkpoints: Checkpoints,
        log: RunLog,
        interruption: Interruption,
        compilations: Compilations,
        profile: Profile,
    ) -> None:
        self._config, self._run, self._checkpoints = config, run, checkpoints
        self._log, self._interruption = log, interruption
        self._compilations, self._profile = compilations, profile
        self._compiled = int(run.compiling > 0)
        self._unlogged: tuple[int, Mapping[str, jax.Array], bool] | None = None
        self._votes = None
        self.step = self._saved = run.start
        self.state = checkpoints.restore(run.start, run.state) if run.start else run.state

    def to_the_end(self) -> dict[str, Scores]:
        plan, workdir = self._config.train, self._config.workdir
        self._log.clock.add("start", time.perf_counter() - self._log.clock.began - self._run.compiling)
        self._log.clock.add("compile", self._run.compiling)
        if self._run.start >= plan.steps:
            self._log.say(f"{workdir} has done its {plan.steps} steps already")
        elif self._evaluates(self.step) and self.step not in cluster.from_first(self._checkpoints.evaluations):
            self.evaluate()  # It was stopped before.
        while self.step < plan.steps:
            with self._interruption.agreeing(jax.process_count() > 1):
                began = time.perf_counter()
                batch = next(self._run.clips)
                # While the device computes nothing waits for data but the host.
                idle = self.state.step.is_ready()  # pyrefly: ignore[missing-attribute]  # jax.Array hides it
                self._log.waited(time.perf_counter() - began if idle else 0.0)
                with self._interruption.deferred():
                    self.advance(batch)
                self._agree()
            if self._evaluates(self.step):
                self.evaluate()
                self._log.restart_clock(self.step)
        with self._log.clock.spent("checkpoint"):
            self._checkpoints.wait()
        scores = self.evaluate()
        if self._run.start < plan.steps:
            self.say_times()
            self._log.say(f"{workdir} has done its {plan.steps} steps")
        return scores

    def say_times(self) -> None:
        """Says where the time went; once, at the end."""
        self._profile.close(self.step)
        self._log.finish(self.step, self._compiled, self._run.step_bytes)

    def _agree(self) -> None:
        """Stops all processes after the same step, where one of them got a signal; one process
        stops by itself."""
        if jax.process_count() == 1:
            return
        sharding = self.state.step.sharding
        assert isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh)
        self._votes = self._votes or cluster.Votes(sharding.mesh)
        now = self._evaluates(self.step) or self.step == self._config.train.steps  # No step follows at once.
        self._interruption.stop(self._votes.result(self.step, self._interruption.wish, now))

    def _evaluates(self, step: int) -> bool:
        """Whether an evaluation follows a step, other than the last."""
        plan = self._config.train
        return bool(plan.eval_every) and 0 < step < plan.steps and step % plan.eval_every == 0

    def advance(self, batch: dict[str, jax.Array]) -> None:
        """One step, with what is logged and saved after it.

        The host waits for the device where it saves, and nowhere else: the figures of a line are
        fetched while the step after it runs.
        """
        plan = self._config.train
        metrics = self._start(batch)
        self.write_log()
        last = self.step == plan.steps
        logs = self.step % plan.log_every == 0 or last
        saves = self.step % plan.checkpoint_every == 0 or self._evaluates(self.step) or last
        if logs or saves:
            for value in metrics.values():
                value.copy_to_host_async()
            self._unlogged = (self.step, metrics, logs)
        if saves:
            self.save()
        self._profile.after(self.step, self.state)

    def _start(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Starts a step, moving nothing to or from the devices; the first is waited for. Returns
        its figures."""
        first = self.step == self._run.start
        self._log.done()
        began, compiled = time.perf_counter(), self._compilations.count
        # The first places the model's constants.
        with self._profile.step(self.step + 1), jax.transfer_guard("allow" if first else "disallow"):
            self.state, metrics = self._run.step(self.state, batch, self._run.key)
        self.step += 1
        self._log.sent(self.step, metrics["loss"])  # pyrefly: ignore[bad-argument-type]  # jax.Array hides it
        self._log.done()
        if self._compilations.count > compiled:
            self._compiled += 1
            if self._compiled > 1:
                self._log.say(f"step {self.step} was compiled anew, with other shapes or placing than the one before")
        if first:  # It loads the program, which is no part of the rates.
            jax.block_until_ready(self.state)
            self._log.done(self.step)
            self._log.clock.add("compile", time.perf_counter() - began)
            self._log.restart_clock(self.step)
        # A save has the time of one step: a kill costs no more than the interval and that one.
        with self._log.clock.spent("checkpoint"):
            self._checkpoints.wait()
        return metrics

    def write_log(self) -> None:
        """Writes the line that is due; InputError if too many iterations were not applied, one
        after the other."""
        if self._unlogged is None:
            return
        (step, metrics, logs), self._unlogged = self._unlogged, None
        self._log.done(step)
        values = {name: float(value) for name, value in metrics.items()}
        bad = int(values.pop("bad_in_a_row"))
        if logs:
            rate = float(self._run.rate(step - 1 - int(values["skipped"])))
            self._log.scalars(step, {**values, "rate": rate})
        if bad >= self._config.train.bad_steps:
            self._save_the_last_good(step, int(values["skipped"]), bad)
            problem = f"loss or gradients were not finite in {bad} iterations in a row, from {step - bad + 1} on"
            kept = f"step {self._saved} is kept; " if self._saved else ""
            remedy = f"{kept}train with a smaller --optim.rate or with --optim.clip-norm, in another --workdir"
            with cluster.together():
                raise InputError(self._config.workdir, problem, remedy)

    def save(self) -> None:
        """Saves the state in the background, unless this step is saved already."""
        self.write_log()
        if self.step > self._saved:
            with self._log.clock.spent("checkpoint"):
                self._checkpoints.save(self.state, self._config, self._run.about)
            self._saved = self.step

    def _save_the_last_good(self, step: int, skipped: int, bad: int) -> None:
        """Saves the state of the last iteration that was applied, as it was then: of those up to
        ``step`` that were not, only the counters changed it."""
        self.step = step - bad
        then = {"step": self.step, "skipped": skipped - bad, "bad_in_a_row": 0}
        place = self.state.step.sharding
        counters = {name: jax.device_put(np.int32(value), place) for name, value in then.items()}
        self.state = self.state.replace(**counters)
        self.save()
        self._checkpoints.wait()

    def evaluate(self) -> dict[str, Scores]:
        """Figures and pictures of the average of the weights where there is one, else of the
        weights."""
        run, watchers = self._run, []
        if run.colours is not None:
            data = self._config.data
            strips = FrameStrips(run.held_out, run.colours, first=data.first_whole, channels=data.frame_channels)
            watchers.append(strips)
        with self._interruption.agreeing(jax.process_count() > 1):
            with self._log.clock.spent("evaluation"):
                variables, *copies = on_each_device(self.state.averaged, self._config.eval.devices)
                scores = evaluate(
                    run.segmenter, variables, run.held_out,
                    watchers=watchers, copies=copies, interruption=self._interruption,
                )  # fmt: skip
                drawn = cluster.gathered([watcher.pictures for watcher in watchers])
            with self._interruption.deferred():
                table = main_table(scores) + ("\n(EMA weights)" if self.state.ema else "")
                pictures = {name: picture for share in drawn for strips in share for name, picture in strips.items()}
                self._log.evaluation(self.step, _figures(scores), table, dict(sorted(pictures.items())))
                method_scores = next(iter(scores.values()))  # The others are its parts'.
                self._checkpoints.record(self.step, method_scores.figures()["miou"])
        return scores


def make_workdir(workdir: Path) -> None:
    """Makes the run's folder, after all that can be wrong with the input has shown itself.
    InputError if it cannot."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(workdir, f"cannot be made ({error.strerror})", "name another folder with --workdir") from error


def _figures(scores: dict[str, Scores]) -> dict[str, float]:
    """All figures of all rows under ``row/name``; without those that nothing was there to
    measure."""
    values = {f"{row}/{key}": figure for row, s in scores.items() for key, figure in s.figures().items()}
    return {name: figure for name, figure in values.items() if not math.isnan(figure)}
