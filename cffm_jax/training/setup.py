"""What a run needs before its first step. What is wrong with the input shows here, with nothing
written."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from jax.typing import ArrayLike

from cffm_jax.checkpoints.by_path import newest_whole, open_checkpoints
from cffm_jax.checkpoints.compatible import require_same_run
from cffm_jax.checkpoints.space import require_space
from cffm_jax.checkpoints.state import TrainState
from cffm_jax.config import NOTHING, REQUIRED, Config, DataConfig, InitConfig
from cffm_jax.config.checks import check_settings, require_crop
from cffm_jax.data.layouts.classes import Classes, numbered_classes, stated_classes
from cffm_jax.data.layouts.read import manifest_of, read_videos
from cffm_jax.data.layouts.video import Video
from cffm_jax.data.pipeline import training_batches
from cffm_jax.errors import InputError
from cffm_jax.evaluation.options import evaluation_videos
from cffm_jax.evaluation.sharing import chosen_devices
from cffm_jax.inference.video_prototypes import all_prototypes, prototype_source
from cffm_jax.inference.whole_videos import VideoSegmenter
from cffm_jax.models.create import build_model
from cffm_jax.models.criterion import make_criterion
from cffm_jax.models.encoders.names import ENCODER
from cffm_jax.models.macs import training_flops
from cffm_jax.models.methods.method import Method
from cffm_jax.models.variables import init_variables, variable_shapes
from cffm_jax.rules import with_changes
from cffm_jax.runtime import cluster
from cffm_jax.training import footprint
from cffm_jax.training.ahead import BatchesAhead
from cffm_jax.training.notes import dataset_notes, unread_notes
from cffm_jax.training.optim import learning_rate, make_optimizer
from cffm_jax.training.sharding import init_state, make_mesh, replicated, require_shares, state_shapes
from cffm_jax.training.speed import Work, peak_flops
from cffm_jax.training.step import Step, make_train_step
from cffm_jax.training.teacher import open_teacher
from cffm_jax.weights.class_names import of_dataset
from cffm_jax.weights.flow import flow_weights
from cffm_jax.weights.open import RANDOM, inherited, licence_of_run, open_stored
from cffm_jax.weights.start import start_from


class Run(NamedTuple):
    """A run that is ready to start.

    Attributes:
      start: iterations done already.
      notes: lines about the checkpoints that were found, and about the dataset.
      state: before the first step; where ``start`` is not 0, only a pattern for what is restored.
      step: the jitted step.
      rate: the encoder's learning rate by iteration.
      key: of the dropouts; the step folds its number in.
      clips: batches on the devices, from the one of iteration ``start`` on.
      segmenter: for evaluations.
      held_out: the videos to evaluate on.
      summary: one line about it.
      memory: one about what a step takes.
      step_bytes: that, of each device; None where the compiler does not tell.
      compiling: seconds that went into compiling the step.
      devices: those of the mesh.
      work: floating point operations of a step, and the devices' peak.
      colours: u8[256,3] of the classes, for pictures; None: there are none.
      about: what is saved with each checkpoint: "licence" and "classes".
    """

    start: int
    notes: tuple[str, ...]
    state: TrainState
    step: Step
    rate: Callable[[ArrayLike], jax.Array]
    key: jax.Array
    clips: Iterator[dict[str, jax.Array]]
    segmenter: VideoSegmenter
    held_out: tuple[Video, ...]
    summary: str
    memory: str = ""
    step_bytes: int | None = None
    compiling: float = 0.0
    devices: Sequence[jax.Device] = ()
    work: Work = Work()
    colours: np.ndarray | None = None
    about: Mapping[str, Any] = MappingProxyType({})


@contextlib.contextmanager
def prepare(config: Config) -> Iterator[Run]:
    """Makes a run ready; the loader is closed at the end.

    Raises:
      InputError: the config, the data, the initial weights or the checkpoints cannot be used.
    """
    plan = config.train
    with cluster.together():
        check_settings(config)
        model = build_model(config.model, config.data.frame_channels)
        require_crop(config.data.crop, model.input_multiple)
        mesh = make_mesh(plan.devices, plan.fsdp)
    start, notes = cluster.from_first(lambda: resume_step(config))
    with cluster.together():
        if not start:
            require_start(model, config.init)
        require_samples(model, config.data)
        classes = check(config, mesh)
        videos = read_videos(config.data, config.data.train_split)
        held_out = evaluation_videos(config)
    if start < plan.steps:
        notes += unread_notes(config, model)
        notes += cluster.from_first(lambda: dataset_notes(config, classes, videos, held_out))
    optimizer = make_optimizer(config.optim, plan.steps, model)
    key = jax.random.key(plan.seed)
    offsets = config.data.offsets  # As samples of their own all frames of a clip are read.
    offsets = offsets if config.data.samples == "frames" else model.training_offsets(offsets)
    prototypes, data = None, dataclasses.replace(config.data, offsets=offsets)
    with cluster.together():
        teacher = open_teacher(model, config) if start < plan.steps else None
        variables, origin, licence = initial_weights(model, config, jax.random.fold_in(key, 0), start)
        splits = (data.eval_split, *((data.train_split,) if start < plan.steps else ()))
        read = splits if model.reads_prototypes else ()
        if teacher:
            origin, licence = _joined(origin, teacher.origin), licence if start else _joined(licence, teacher.licence)
        # What is trained on is of whole frames: tiles change figures, and no training.
        configs = {data.train_split: with_changes(config, [("eval.tile_size", ()), ("eval.overlap", -1)])}
        configs[data.eval_split] = config
        sources = {split: prototype_source(configs[split], model, variables, split) for split in read}
    if sources and start < plan.steps:
        prototypes = all_prototypes(sources[data.train_split], videos, data.train_split)
    with training_batches(
        videos,
        data,
        num_classes=config.model.num_classes,
        batch_size=plan.batch_size,
        seed=plan.seed,
        start_step=start,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    ) as batches:
        with cluster.together():
            clips = BatchesAhead(batches, mesh, prototypes) if start < plan.steps else None
        if teacher and clips:
            teacher.start(mesh)
            clips.teach(teacher)
        average = config.optim.ema > 0
        if start:
            state = state_shapes(model, optimizer, mesh, ema=average)
        else:
            state = init_state(model, variables, optimizer, mesh, ema=average)
        del variables  # Their memory is the step's.
        step = step_of(config, model, optimizer, mesh)
        # Made where it is used: the loop moves nothing.
        key = jax.jit(lambda: jax.random.fold_in(jax.random.key(plan.seed), 1), out_shardings=replicated(mesh))()
        memory, needed, seconds, samples = "", None, 0.0, plan.batch_size
        if clips:
            samples = clips.shapes["frames"].shape[0]
            with cluster.together():
                require_statistics(model, samples // plan.accumulate)
                require_space(config.workdir, state)
            # Processes may wait for each other here, to share out what is tried.
            held = teacher.held if teacher else 0
            needed, seconds = footprint.compiled(config, step, state, clips.shapes, key, held)
            with cluster.together():
                memory = footprint.require_memory(needed, config, model, mesh, goes_on=start > 0)
        yield Run(
            start=start,
            notes=notes,
            state=state,
            step=step,
            rate=learning_rate(config.optim, plan.steps),
            key=key,
            clips=iter(clips or ()),
            segmenter=VideoSegmenter(model, config, sources.get(data.eval_split)),
            held_out=held_out,
            summary=(
                f"{config.model.name}: {len(videos)} training videos, {_classes(config, classes)}, {_machines(mesh)}, "
                f"weights: {origin}"
            ),
            memory=memory,
            step_bytes=needed,
            compiling=seconds,
            devices=tuple(mesh.devices.flat),
            work=work_of_a_step(config, model, mesh, samples),
            colours=(classes or numbered_classes(config.model.num_classes)).colours,
            about={"licence": licence, "classes": of_dataset(classes).stored()},
        )


def step_of(config: Config, model: Method, optimizer: optax.GradientTransformation, mesh: Mesh) -> Step:
    """The step of ``make_train_step`` that the settings ask for."""
    plan = config.train
    return make_train_step(
        model.clone(remat=plan.remat),
        optimizer,
        mesh,
        frame_loss_weight=plan.frame_loss_weight,
        criterion=make_criterion(config.loss),
        bad_steps=plan.bad_steps,
        ema=config.optim.ema,
        accumulate=plan.accumulate,
    )


def work_of_a_step(config: Config, model: Method, mesh: Mesh, samples: int) -> Work:
    """Counted by hand (``macs.training_flops``), of so many samples, clips or single frames; the
    devices' peak where it is known or given."""
    plan, kind = config.train, mesh.devices.flat[0].device_kind
    peak = 1e12 * plan.peak_tflops
    precision = jax.config.jax_default_matmul_precision  # pyrefly: ignore[missing-attribute]  # added at run time
    peak = peak or peak_flops(kind, config.model.dtype, precision)
    flops = training_flops(model, *config.data.crop, prototypes=config.prototypes.count)
    frames = model.clip_frames if config.data.samples == "frames" else 1
    return Work(samples * flops / frames, peak * mesh.size)


def _classes(config: Config, classes: Classes | None) -> str:
    return f"{config.model.num_classes} classes{'' if classes else ' without names'}"


def _machines(mesh: Mesh) -> str:
    processes = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{mesh.size} device(s){processes}"


def resume_step(config: Config) -> tuple[int, tuple[str, ...]]:
    """Iterations that the run in ``workdir`` has done, and lines about the checkpoints that were
    found.

    Raises:
      InputError: it is a run with other settings, or all of its checkpoints are damaged.
    """
    start, notes = newest_whole(config.workdir)
    if start:
        with open_checkpoints(config.workdir) as checkpoints:
            require_same_run(checkpoints.config(start), config, config.workdir)
    return start, notes


def require_start(model: Method, init: InitConfig) -> None:
    """InputError if ``init`` names too much or too little to start a model's training from."""
    if init.model and init.encoder not in ("", NOTHING, REQUIRED):
        raise InputError("--init.encoder", "given together with --init.model", "give one of them")
    if model.base and not init.model:
        parts = ", ".join(model.fresh_parts or ())
        problem = f"is missing: {model.public_name} trains its {parts} on top of a trained {model.base.public_name}"
        raise InputError("--init.model", problem, "name the folder of its run, or a file with its weights")
    if init.encoder == REQUIRED and not init.model:
        problem = f"is missing: the config trains from ImageNet weights of {model.backbone}"
        remedy = f"name their file, or give --init.encoder {NOTHING} to train from random weights"
        raise InputError("--init.encoder", problem, remedy)


def require_statistics(model: Method, samples: int) -> None:
    """InputError unless batch statistics can be taken of so many samples at a time."""
    if samples < model.least_samples:
        problem = f"gives {samples} sample at a time, and {model.public_name} pools a frame to one value"
        remedy = "BatchNorm needs two: give a larger one, or a smaller --train.accumulate"
        raise InputError("--train.batch-size", problem, remedy)


def require_samples(model: Method, data: DataConfig) -> None:
    """InputError if single frames are to be trained on by a method that reads more of a clip."""
    if data.samples == "frames" and (model.READS_CLIPS or model.reference_names or model.base):
        problem = f"is frames, and {model.public_name} trains on clips"
        raise InputError("--data.samples", problem, "give clips, or another --model.name")


def check(config: Config, mesh: Mesh) -> Classes | None:
    """The classes that the dataset states, None without any. InputError for settings that do not
    fit the machine or the dataset's folder."""
    require_shares(config.train.batch_size, mesh, config.train.accumulate)
    chosen_devices(config.eval.devices, mesh.local_devices)
    manifest_of(config.data)
    return stated_classes(config.data.root, config.model.num_classes, config.data.layout)


def initial_weights(model: Method, config: Config, key: jax.Array, start: int = 0) -> tuple[dict[str, Any], str, str]:
    """The variables that training starts from, in words what they are, and the notice about their
    use: random ones, those that ``init`` names, or of a run that goes on those of its last
    checkpoint.

    Raises:
      InputError: what ``init`` names does not fit the model, or names nothing for a model with
        global contexts.
    """
    init = config.init
    if start:
        with open_checkpoints(config.workdir) as checkpoints:
            variables = checkpoints.restore_variables(start, variable_shapes(model))
            licence = licence_of_run(checkpoints.about(start), checkpoints.config(start))
            return variables, f"step {start} of {config.workdir}", licence
    require_start(model, init)
    if not init.source:
        flow = flow_weights(model, init.flow)
        variables, origin, licence = init_variables(model, key), "random", RANDOM
    else:
        borrowed = tuple(model.PARTS[part] for part in model.BORROWED)
        with open_stored(init.source) as weights:
            variables, report = start_from(
                weights,
                model,
                key,
                only=() if init.model else (ENCODER,),
                may_be_fresh=None if model.fresh_parts is None else (*model.fresh_parts, *borrowed),
            )
        lacks = {*borrowed} & report.fresh.keys()
        flow = flow_weights(model, init.flow, held=not lacks)
        replaced = borrowed if flow.variables else ()
        fresh = {part: why for part, why in report.fresh.items() if part not in lacks}
        loaded = tuple(part for part in report.loaded if part not in replaced)
        origin, licence = str(report._replace(fresh=fresh, loaded=loaded)), inherited(report.source, report.licence)
    return flow.beside(variables), _joined(origin, flow.origin), _joined(licence, flow.licence)


def _joined(*parts: str) -> str:
    return "; ".join(filter(None, parts))
