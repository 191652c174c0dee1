"""Evaluation of a checkpoint: its figures, and the files that are made of its masks."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from cffm_jax.checkpoints.compatible import as_option, changed_settings, require_same_model
from cffm_jax.config import EVALUATED, ClusterConfig, Config
from cffm_jax.config.checks import check_settings
from cffm_jax.data.labels.label_sample import require_splits_agree
from cffm_jax.data.layouts.classes import Classes, stated_classes
from cffm_jax.data.layouts.video import Video
from cffm_jax.errors import InputError
from cffm_jax.evaluation import score_tables
from cffm_jax.evaluation.mask_folder import CONTENTS, PredictionWriter
from cffm_jax.evaluation.model_scores import evaluate
from cffm_jax.evaluation.options import EvalOptions, evaluation_videos
from cffm_jax.evaluation.pictures import PictureCollector
from cffm_jax.evaluation.report import write
from cffm_jax.evaluation.sharing import chosen_devices
from cffm_jax.evaluation.submission import SubmissionWriter, print_written, require_submission
from cffm_jax.inference import video_prototypes
from cffm_jax.inference.whole_videos import PrototypeSource, VideoSegmenter
from cffm_jax.metrics.scores import Scores
from cffm_jax.models.create import build_model
from cffm_jax.models.methods.method import Method
from cffm_jax.rules import with_changes
from cffm_jax.runtime import cluster
from cffm_jax.runtime.atomic import require_new_folder, require_writable
from cffm_jax.runtime.signals import Interruption
from cffm_jax.weights.described import WHOLE, StoredWeights
from cffm_jax.weights.open import beside, complete, open_stored


class _Prepared(NamedTuple):
    """Inputs of an evaluation; the options have been checked.

    Attributes:
      options: with the stored config, if no other is given.
      origin, step: of the weights.
      changed: settings that are not those stored with them.
      copies: the weights on each device that is used.
      note: how the weights' classes differ from the dataset's.
    """

    options: EvalOptions
    model: Method
    origin: str
    step: int | None
    changed: dict[str, Any]
    videos: tuple[Video, ...]
    dataset: Classes
    output: Path
    source: PrototypeSource | None
    copies: list[dict[str, Any]]
    note: str = ""


def evaluate_checkpoint(
    options: EvalOptions, with_config: Callable[[Config], EvalOptions], interruption: Interruption
) -> None:
    """Evaluates weights; all processes of a run call it, and the first writes and prints.

    Args:
      options: of the command.
      with_config: the options on top of the config that is stored with the weights.
      interruption: to end by a signal.

    Raises:
      InputError, Stopped: in all processes.
    """
    with interruption.agreeing(jax.process_count() > 1):
        _require_same(options)
        with cluster.together():
            prepared = _prepare(options, with_config)
    with interruption.agreeing(True):
        _evaluate(prepared, interruption)


def _require_same(options: EvalOptions) -> None:
    local_options = dataclasses.replace(options, cluster=ClusterConfig())
    everywhere = cluster.gathered(local_options)
    with cluster.together():
        if any(other != everywhere[0] for other in everywhere):
            raise InputError("command line", "is not the same in all processes", "give all the same options")


def _evaluate(prepared: _Prepared, interruption: Interruption) -> None:
    options, config = prepared.options, prepared.options.settings
    videos, samples = prepared.videos, None

    def check() -> None:
        interruption.stop(interruption.wish)

    with contextlib.ExitStack() as stack:
        watchers = [stack.enter_context(watcher) for watcher in _watchers(prepared, check)]
        if options.report:
            samples = write.MaskSamples(videos, first=max(config.data.offsets))
            watchers.append(samples)
        variables, *copies = prepared.copies
        # A submission alone needs no other masks than the network's own.
        parts = not options.submission or bool(options.pictures)
        segmenter = VideoSegmenter(prepared.model, config, prepared.source, parts=parts)
        rows = evaluate(segmenter, variables, videos, watchers=watchers, copies=copies, interruption=interruption)
    if samples:
        samples.gather()
    with cluster.together():
        if cluster.first():
            _write_and_print(prepared, rows, samples)


def _prepare(options: EvalOptions, with_config: Callable[[Config], EvalOptions]) -> _Prepared:
    with open_stored(options.checkpoint, raw=options.raw) as weights:
        if weights.part != WHOLE:
            raise InputError(options.checkpoint, "holds an encoder alone", "give the weights of a whole model")
        if not options.config:
            # The stored config takes the place of a config file: the overrides go on top of it.
            options = with_config(weights.config)
        if not options.settings.model.num_classes:
            options = with_changes(options, [("settings.model.num_classes", weights.config.model.num_classes)])
        config = options.settings
        require_same_model(weights.config, config, options.checkpoint)
        check_settings(config, EVALUATED)
        model = build_model(config.model, config.data.frame_channels)
        devices = chosen_devices(config.eval.devices, jax.local_devices())
        videos = evaluation_videos(config, masks=not options.submission)
        require_splits_agree(config.data.root, config.data.layout, [config.data.eval_split], videos)
        classes, note = _classes(config, weights)
        output = Path(options.output or beside(options.checkpoint, "eval.json"))
        if cluster.first():
            _require_places(options, output, videos)
        variables = complete(weights)
    # Without a place the first: prototypes, which are computed with them on any device, follow
    # that.
    copies = [jax.device_put(variables), *(jax.device_put(variables, device) for device in devices[1:])]
    source = None
    if model.reads_prototypes:
        folder = beside(options.checkpoint, video_prototypes.FOLDER)
        source = video_prototypes.prototype_source(config, model, copies[0], config.data.eval_split, folder)
    changed = changed_settings(weights.config, config)
    return _Prepared(
        options, model, weights.origin, weights.step, changed, videos, classes, output, source, copies, note
    )


def _classes(config: Config, weights: StoredWeights) -> tuple[Classes, str]:
    """The dataset's own classes, else those that the weights state; and how the two differ."""
    count = config.model.num_classes
    own = stated_classes(config.data.root, count, config.data.layout)
    return own or weights.classes.classes(count), weights.classes.contradiction(own.names) if own else ""


def _require_places(options: EvalOptions, output: Path, videos: Sequence[Video]) -> None:
    """InputError, before the work, for what cannot be written after it."""
    if options.submission:
        require_submission(options, videos)
    else:
        require_writable(output)
    if options.report:
        write.require_place(options.report)
    if options.save_predictions:
        require_new_folder(options.save_predictions, CONTENTS)


def _watchers(prepared: _Prepared, check: Callable[[], None]) -> list[contextlib.AbstractContextManager]:
    options, videos, (names, colours) = prepared.options, prepared.videos, prepared.dataset
    config, watchers = options.settings, []
    if options.save_predictions:
        watchers.append(PredictionWriter(options.save_predictions, colours))
    if options.pictures:
        first = max(config.data.offsets)
        watchers.append(
            PictureCollector(
                options.pictures, videos, names, first=first, colours=colours, channels=config.data.frame_channels,
                beside=options.beside, check=check,
            )
        )  # fmt: skip
    if options.submission:
        watchers.append(
            SubmissionWriter(options.submission, videos, config.model.num_classes, options.submission_values, check)
        )
    return watchers


def _write_and_print(prepared: _Prepared, rows: dict[str, Scores], samples: write.MaskSamples | None) -> None:
    """Writes and prints the figures, and writes the report; prints where a submission is."""
    options, videos, dataset = prepared.options, prepared.videos, prepared.dataset
    config = options.settings
    data = f"{config.data.root} {config.data.eval_split}"
    changed = " ".join(as_option(name, value) for name, value in prepared.changed.items())
    with_ = f", with {changed}" if changed else ""
    if prepared.note:
        print(f"warning: {prepared.note}", file=sys.stderr)
    print(f"{config.model.name}, {prepared.origin}, {options.checkpoint}, {data}{with_}\n")
    if options.submission:
        print_written(options.submission, videos)
        return
    source = {"checkpoint": options.checkpoint, "step": prepared.step, "changed": prepared.changed}
    score_tables.write_and_print(prepared.output, source, rows, dataset.names)
    if samples:
        facts = {"checkpoint": options.checkpoint, "weights": prepared.origin}
        facts |= {"other settings than the checkpoint's": changed} if changed else {}
        facts |= {"names of the classes": prepared.note} if prepared.note else {}
        about = write.about(config, dataset, facts, config.model.name)
        channels = config.data.frame_channels
        page = write.write_report(options.report, rows, about, dataset, videos, samples.of, channels)
        print(f"report written to {page}")
