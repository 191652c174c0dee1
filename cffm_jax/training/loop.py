"""The training run: step, log, evaluate, save."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from cffm_jax.config import Config
from cffm_jax.conversion.files import read_state_dict
from cffm_jax.conversion.state_dicts import ENCODER, convert_state_dict
from cffm_jax.data import layouts
from cffm_jax.data.pipeline import training_batches
from cffm_jax.errors import InputError
from cffm_jax.inference.evaluate import evaluate, evaluation_videos
from cffm_jax.inference.offline import VideoSegmenter
from cffm_jax.inference.scores import main_table
from cffm_jax.metrics import Scores
from cffm_jax.models.cffm import CFFM
from cffm_jax.optim import learning_rate, make_optimizer
from cffm_jax.training.checkpoint import Checkpoints, last_step, open_checkpoints, require_same_model
from cffm_jax.training.log import RunLog
from cffm_jax.training.state import TrainState, batch_sharded, build_model, init_state, init_variables, make_mesh
from cffm_jax.training.step import make_train_step


def train(config: Config) -> dict[str, Scores]:
    """Trains as the config says, or goes on where the run in ``workdir`` stopped. Returns the last evaluation.

    Raises:
      InputError: the config, the data, the initial weights or the checkpoints cannot be used.
    """
    plan, workdir = config.train, Path(config.workdir)
    model = build_model(config)
    mesh = make_mesh(plan.devices)
    check(config, mesh)
    videos = layouts.read_split(config.data.root, config.data.train_split)
    held_out = evaluation_videos(config)
    optimizer = make_optimizer(config.optim, plan.steps)
    rate = learning_rate(config.optim, plan.steps)
    key = jax.random.key(plan.seed)
    start = last_step(workdir)
    if start:
        with open_checkpoints(workdir) as checkpoints:
            require_same_model(checkpoints.config(start), config, workdir)
    batches = training_batches(
        videos, config.data, num_classes=config.model.num_classes, batch_size=plan.batch_size, seed=plan.seed, start_step=start,
        process_index=jax.process_index(), process_count=jax.process_count(),
    )  # fmt: skip
    with batches:
        clips = on_device(batches, mesh) if start < plan.steps else iter(())
        variables, origin = initial_variables(model, config, jax.random.fold_in(key, 0))
        state = init_state(variables, optimizer, mesh)
        step_fn = make_train_step(model, optimizer, mesh, frame_loss_weight=plan.frame_loss_weight)
        segmenter = VideoSegmenter(model, config)
        make_workdir(workdir)
        with (
            Checkpoints(workdir, plan.keep, create=True) as checkpoints,
            RunLog(workdir, plan.steps, start, plan.batch_size) as log,
        ):
            if start:
                state, origin = checkpoints.restore(start, state), f"step {start} of {workdir}"
            (workdir / "config.json").write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n")
            log.say(f"{config.model.name}: {len(videos)} training videos, {mesh.size} device(s), weights: {origin}")
            scores = None
            for step in range(start + 1, plan.steps + 1):
                began = time.perf_counter()
                batch = next(clips)
                log.step(time.perf_counter() - began)
                state, metrics = step_fn(state, batch, jax.random.fold_in(key, 1))
                if step == start + 1:
                    jax.block_until_ready(state)
                    log.restart_clock()
                last = step == plan.steps
                if step % plan.log_every == 0 or last:
                    values = {name: float(value) for name, value in metrics.items()}
                    log.scalars(step, {**values, "rate": float(rate(step - 1))})
                if step % plan.checkpoint_every == 0 or last:
                    checkpoints.save(state, config)
                if last or (plan.eval_every and step % plan.eval_every == 0):
                    scores = evaluate(segmenter, state.variables, held_out)
                    log.evaluation(step, _figures(scores), main_table(scores))
                    log.restart_clock()
            checkpoints.wait()
            if scores is None:
                log.say(f"{workdir} has done its {plan.steps} steps already")
                scores = evaluate(segmenter, state.variables, held_out)
                log.say(main_table(scores))
    return scores


def check(config: Config, mesh: Mesh) -> None:
    """InputError for settings that do not fit together or the machine."""
    plan = config.train
    if plan.batch_size % mesh.size:
        raise InputError(
            "--train.batch_size", f"{plan.batch_size} clips do not divide over {mesh.size} devices", "change one of the two, or --train.devices"
        )
    for name, value in (("steps", plan.steps), ("log_every", plan.log_every), ("checkpoint_every", plan.checkpoint_every)):
        if value < 1:
            raise InputError(f"--train.{name}", f"is {value}", "give at least 1")
    if any(side % 32 or side < 32 for side in config.data.crop):
        raise InputError("--data.crop", f"is {config.data.crop}", "give multiples of 32")


def make_workdir(workdir: Path) -> None:
    """Makes the run's folder, after all that can be wrong with the input has shown itself. InputError if it cannot."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(workdir, f"cannot be made ({error.strerror})", "name another folder with --workdir") from error


def on_device(batches: Iterator[dict[str, Any]], mesh: Mesh) -> Iterator[dict[str, jax.Array]]:
    """Sends each batch while the step before it runs; the first is read at once, so that its faults show early."""
    sharding = batch_sharded(mesh)

    def put(batch: dict[str, Any]) -> dict[str, jax.Array]:
        return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}

    def rest(ahead: dict[str, jax.Array]) -> Iterator[dict[str, jax.Array]]:
        for batch in batches:
            ready, ahead = ahead, put(batch)
            yield ready

    return rest(put(next(batches)))


def initial_variables(model: CFFM, config: Config, key: jax.Array) -> tuple[dict[str, Any], str]:
    """Random variables, or those that ``init`` names; and in words what they are.

    Raises:
      InputError: both are named, or the file does not fit the model.
    """
    init = config.init
    if init.encoder and init.model:
        raise InputError("--init.encoder", "given together with --init.model", "give one of them")
    if init.model and Path(init.model).is_dir():
        with open_checkpoints(init.model) as checkpoints:
            step = checkpoints.latest()
            require_same_model(checkpoints.config(step), config, init.model)
            return checkpoints.restore_variables(step, init_variables(model, key)), f"step {step} of {init.model}"
    if init.model:
        return convert_state_dict(read_state_dict(init.model), model, source=init.model), f"all from {init.model}"
    variables = init_variables(model, key)
    if not init.encoder:
        return variables, "random"
    loaded = convert_state_dict(read_state_dict(init.encoder), model, part=ENCODER, source=init.encoder)
    count = sum(leaf.size for leaf in jax.tree.leaves(loaded))
    params = {**variables["params"], ENCODER: loaded["params"][ENCODER]}
    return {**variables, "params": params}, f"encoder ({count:,} parameters) from {init.encoder}, the rest random"


def _figures(scores: dict[str, Scores]) -> dict[str, float]:
    """All figures of all rows under ``row/name``; without those that nothing was there to measure."""
    values = {f"{row}/{k}": v for row, s in scores.items() for k, v in dataclasses.asdict(s.figures()).items()}
    return {name: value for name, value in values.items() if not math.isnan(value)}
