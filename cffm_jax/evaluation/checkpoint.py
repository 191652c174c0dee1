"""Evaluation of a checkpoint: its figures, and the files that are made of its masks."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from cffm_jax.checkpoints.compatible import as_option, require_same_model
from cffm_jax.config import EVALUATED, ClusterConfig, Config
from cffm_jax.config.checks import check_settings
from cffm_jax.data.labels.label_sample import require_splits_agree
from cffm_jax.data.layouts.classes import Classes, stated_classes
from cffm_jax.data.layouts.video import Video
from cffm_jax.errors import InputError
from cffm_jax.evaluation import score_tables
from cffm_jax.evaluation.beside import (
    RESERVED,
    Watcher,
    named_sources,
    on_the_same,
    renamed,
    require_masks,
    require_new_names,
    require_same_data,
)
from cffm_jax.evaluation.mask_folder import CONTENTS, MaskWriter, PredictionWriter
from cffm_jax.evaluation.model_scores import evaluate
from cffm_jax.evaluation.network import Network, load_network
from cffm_jax.evaluation.options import EvalOptions, cutoff_of, evaluation_videos
from cffm_jax.evaluation.pictures import PictureCollector
from cffm_jax.evaluation.predictions import score_predictions
from cffm_jax.evaluation.report import write
from cffm_jax.evaluation.sharing import chosen_devices
from cffm_jax.evaluation.submission import SubmissionWriter, print_written, require_submission
from cffm_jax.inference.whole_videos import VideoSegmenter
from cffm_jax.metrics.scores import Scores
from cffm_jax.models.create import build_model
from cffm_jax.rules import with_changes
from cffm_jax.runtime import cluster
from cffm_jax.runtime.atomic import require_new_folder, require_writable
from cffm_jax.runtime.signals import Interruption
from cffm_jax.weights.described import WHOLE, StoredWeights
from cffm_jax.weights.open import beside, is_weights, open_stored


class _Prepared(NamedTuple):
    """Inputs of an evaluation; the options have been checked.

    Attributes:
      options: with the stored config, if no other is given.
      name: of the network's own row.
      network: that of the checkpoint.
      beside: paths of the other sources by name.
      networks: those of them that are weights.
    """

    options: EvalOptions
    name: str
    network: Network
    beside: dict[str, str]
    networks: dict[str, Network]
    videos: tuple[Video, ...]
    dataset: Classes
    output: Path


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
    options, videos = prepared.options, prepared.videos
    first = options.settings.data.first_whole
    samples: dict[str, write.MaskSamples] = {}

    def check() -> None:
        interruption.stop(interruption.wish)

    def scores_of(network: Network, name: str, watchers: Sequence[Watcher], parts: bool = False) -> dict[str, Scores]:
        """Of its rows, the first of which has that name."""
        segmenter = VideoSegmenter(network.model, network.config, network.source, parts=parts)
        names = {segmenter.rows[0]: name}
        if options.report:
            samples[name] = write.MaskSamples(videos, first)
            watchers = [*watchers, samples[name]]
        variables, *copies = network.copies
        watchers = [renamed(watch, names) for watch in watchers]
        rows = evaluate(segmenter, variables, videos, watchers=watchers, copies=copies, interruption=interruption)
        return {names.get(row, row): scores for row, scores in rows.items()}

    with contextlib.ExitStack() as stack:
        pictures = [stack.enter_context(each) for each in _pictures(prepared, check)]
        watchers = [*pictures, *(stack.enter_context(writer) for writer in _writers(prepared, check))]
        # A submission alone needs no other masks than the network's own.
        parts = not options.submission or bool(options.pictures)
        rows = scores_of(prepared.network, prepared.name, watchers, parts)
        for name, network in prepared.networks.items():
            rows |= scores_of(network, name, [each.watch(name) for each in pictures])
    for each in samples.values():
        each.gather()
    with cluster.together():
        if cluster.first():
            _write_and_print(prepared, rows, samples)


def _prepare(options: EvalOptions, with_config: Callable[[Config], EvalOptions]) -> _Prepared:
    with contextlib.ExitStack() as stack:
        sources = named_sources(options.beside)
        paths = {name: path for name, path in sources.items() if is_weights(path)}
        weights, *others = (
            stack.enter_context(open_stored(path, raw=options.raw)) for path in (options.checkpoint, *paths.values())
        )
        for path, each in zip((options.checkpoint, *paths.values()), (weights, *others), strict=True):
            if each.part != WHOLE:
                raise InputError(path, "holds an encoder alone", "give the weights of a whole model")
        asked = options.settings if options.config else None
        if asked is None:
            # The stored config takes the place of a config file: the overrides go on top of it.
            options = with_config(weights.config)
        if not options.settings.model.num_classes:
            options = with_changes(options, [("settings.model.num_classes", weights.config.model.num_classes)])
        config = options.settings
        configs = [with_config(on_the_same(each.config, asked) if asked else each.config).settings for each in others]
        for path, each, settings in zip((options.checkpoint, *paths.values()), (weights, *others), (config, *configs)):
            require_same_model(each.config, settings, path)
            require_same_data(settings, path, config, options.checkpoint)
            check_settings(settings, EVALUATED)
        model, *models = (build_model(each.model, each.data.frame_channels) for each in (config, *configs))
        own, *rows = model.rows(config.eval.prototypes)
        name = options.name or own
        if options.name in {*rows, *RESERVED}:
            raise InputError("--name", f"is {name}, as something else is called already", "name it otherwise")
        require_new_names(sources, (name, *rows))
        devices = chosen_devices(config.eval.devices, jax.local_devices())
        videos = evaluation_videos(config, masks=not options.submission)
        require_splits_agree(config.data.root, config.data.layout, [config.data.eval_split], videos)
        for source, path in sources.items():
            if source not in paths:
                require_masks(path, videos)
        dataset = _classes(config, weights)
        output = Path(options.output or beside(options.checkpoint, "eval.json"))
        if cluster.first():
            _require_places(options, output, videos)
        network = load_network(options.checkpoint, weights, model, config, devices)
        networks = {
            name: load_network(paths[name], *each, devices)
            for name, each in zip(paths, zip(others, models, configs, strict=True), strict=True)
        }
    return _Prepared(options, name, network, sources, networks, videos, dataset, output)


def _classes(config: Config, weights: StoredWeights) -> Classes:
    """The dataset's own classes, else those that the weights state."""
    count = config.model.num_classes
    return stated_classes(config.data.root, count, config.data.layout) or weights.classes.classes(count)


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


def _pictures(prepared: _Prepared, check: Callable[[], None]) -> list[PictureCollector]:
    options, (names, colours) = prepared.options, prepared.dataset
    if not options.pictures:
        return []
    folders = {name: "" if name in prepared.networks else path for name, path in prepared.beside.items()}
    return [
        PictureCollector(
            options.pictures, prepared.videos, names, first=options.settings.data.first_whole, colours=colours,
            channels=options.settings.data.frame_channels, beside=folders, check=check,
        )
    ]  # fmt: skip


def _writers(prepared: _Prepared, check: Callable[[], None]) -> list[MaskWriter]:
    options, classes = prepared.options, prepared.options.settings.model.num_classes
    writers: list[MaskWriter] = []
    if options.save_predictions:
        writers.append(PredictionWriter(options.save_predictions, prepared.dataset.colours))
    if options.submission:
        writers.append(SubmissionWriter(options.submission, prepared.videos, classes, options.submission_values, check))
    return writers


def _write_and_print(prepared: _Prepared, rows: dict[str, Scores], samples: Mapping[str, write.MaskSamples]) -> None:
    """Writes and prints the figures, and writes the report; prints where a submission is."""
    options, network, videos, dataset = prepared.options, prepared.network, prepared.videos, prepared.dataset
    config, num_classes = options.settings, options.settings.model.num_classes
    data = f"{config.data.root} {config.data.eval_split}"
    changed = " ".join(as_option(name, value) for name, value in network.changed.items())
    with_ = f", with {changed}" if changed else ""
    for each in (network, *prepared.networks.values()):
        if each.note:
            print(f"warning: {each.note}", file=sys.stderr)
    print(f"{config.model.name}, {network.origin}, {options.checkpoint}, {data}{with_}")
    told = {name: path for name, path in prepared.beside.items() if name not in prepared.networks}
    told |= {name: f"{each.origin}, {each.path}" for name, each in prepared.networks.items()}
    told = {name: told[name] for name in prepared.beside}
    for name, where in told.items():
        print(f"beside it {name}: {where}")
    print()
    if options.submission:
        print_written(options.submission, videos)
        return
    rows |= {
        name: rows.get(name) or score_predictions(videos, path, num_classes, dataset.names, cutoff_of(config))
        for name, path in prepared.beside.items()
    }
    rows = {name: rows[name] for name in (*(row for row in rows if row not in told), *told)}
    source = {"checkpoint": options.checkpoint, "step": network.step, "changed": network.changed}
    source |= {"beside": prepared.beside} if prepared.beside else {}
    score_tables.write_and_print(prepared.output, source, rows, dataset.names)
    if options.report:
        facts = {"checkpoint": options.checkpoint, "weights": network.origin}
        facts |= {"other settings than the checkpoint's": changed} if changed else {}
        facts |= {"names of the classes": network.note} if network.note else {}
        facts |= {f"beside, {name}": where for name, where in told.items()}
        first = config.data.first_whole
        masks = [
            samples[name].of if name in samples else write.prediction_samples(name, path, num_classes, first)
            for name, path in {prepared.name: "", **prepared.beside}.items()
        ]
        about = write.about(config, dataset, facts, config.model.name, tuple(told))
        channels = config.data.frame_channels
        page = write.write_report(options.report, rows, about, dataset, videos, write.together(masks), channels)
        print(f"report written to {page}")
