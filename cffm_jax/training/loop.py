"""The training run: step, log, evaluate, save."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from pathlib import Path

import jax

from cffm_jax.config import Config
from cffm_jax.errors import InputError
from cffm_jax.inference.evaluate import evaluate
from cffm_jax.inference.scores import main_table
from cffm_jax.metrics import Scores
from cffm_jax.training.checkpoint import Checkpoints
from cffm_jax.training.log import RunLog
from cffm_jax.training.setup import prepare


def train(config: Config) -> dict[str, Scores]:
    """Trains as the config says, or goes on where the run in ``workdir`` stopped. Returns the last evaluation.

    Raises:
      InputError: the config, the data, the initial weights or the checkpoints cannot be used.
    """
    plan, workdir = config.train, Path(config.workdir)
    with prepare(config) as run:
        make_workdir(workdir)
        with (
            Checkpoints(workdir, plan.keep, create=True) as checkpoints,
            RunLog(workdir, plan.steps, run.start, plan.batch_size) as log,
        ):
            state = checkpoints.restore(run.start, run.state) if run.start else run.state
            (workdir / "config.json").write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n")
            log.say(run.summary)
            for step in range(run.start + 1, plan.steps + 1):
                began = time.perf_counter()
                batch = next(run.clips)
                log.step(time.perf_counter() - began)
                state, metrics = run.step(state, batch, run.key)
                if step == run.start + 1:  # compiling is no part of the rates
                    jax.block_until_ready(state)
                    log.restart_clock()
                last = step == plan.steps
                if step % plan.log_every == 0 or last:
                    values = {name: float(value) for name, value in metrics.items()}
                    log.scalars(step, {**values, "rate": float(run.rate(step - 1))})
                if step % plan.checkpoint_every == 0 or last:
                    checkpoints.save(state, config)
                if plan.eval_every and step % plan.eval_every == 0 and not last:
                    scores = evaluate(run.segmenter, state.variables, run.held_out)
                    log.evaluation(step, _figures(scores), main_table(scores))
                    log.restart_clock()
            checkpoints.wait()
            if run.start >= plan.steps:
                log.say(f"{workdir} has done its {plan.steps} steps already")
            scores = evaluate(run.segmenter, state.variables, run.held_out)
            log.evaluation(plan.steps, _figures(scores), main_table(scores))
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
