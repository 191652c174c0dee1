"""Evaluation of masks on disk that any program wrote: it takes no network."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cffm_jax.config import EVALUATED
from cffm_jax.config.checks import check_settings
from cffm_jax.data import decode
from cffm_jax.data.labels.label_sample import require_splits_agree
from cffm_jax.data.layouts.classes import read_classes, with_num_classes
from cffm_jax.data.layouts.records import RecordedFile
from cffm_jax.data.layouts.video import Video
from cffm_jax.errors import InputError
from cffm_jax.evaluation import score_tables
from cffm_jax.evaluation.beside import named_sources, require_masks, require_new_names
from cffm_jax.evaluation.mask_folder import palettes_to_compare, prediction_paths, read_prediction
from cffm_jax.evaluation.options import EvalOptions, cutoff_of, evaluation_videos
from cffm_jax.evaluation.report import write
from cffm_jax.evaluation.submission import print_written, require_submission, submit_predictions
from cffm_jax.metrics.scores import RELEASE_LONGER_THAN, Scores, VideoScore, score_video
from cffm_jax.runtime.atomic import require_writable
from cffm_jax.runtime.progress import Progress
from cffm_jax.runtime.signals import Interruption


def score_predictions(
    videos: Sequence[Video],
    predictions_dir: str | os.PathLike,
    num_classes: int,
    class_names: Sequence[str],
    cutoff: int = RELEASE_LONGER_THAN,
) -> Scores:
    """Scores the masks <predictions_dir>/<video>/<frame stem>.png that any program wrote.

    Args:
      videos: the split; frames that have no mask need no prediction.
      predictions_dir: folder of 8-bit indexed PNGs of the masks' size, with values 0..K-1;
        see `mask_folder.read_prediction` for palettes in another order.
      num_classes: K.
      class_names: K names, checked here so that the tables cannot fail after the work.
      cutoff: as of `Scores`.

    Raises:
      InputError: a prediction is missing, unreadable, of a wrong size, or holds what is no class;
        or their palettes contradict each other where no colours are stated.
    """
    if len(class_names) != num_classes:
        raise ValueError(f"{len(class_names)} class names for {num_classes} classes")
    root = Path(predictions_dir)
    if not root.is_dir():
        raise InputError(root, "no such folder", "give the folder that holds <video>/<frame>.png")
    # All files are looked for before the first is read: a gap shows at once, not after an hour.
    jobs = [(video, prediction_paths(video, root / video.name)) for video in videos]

    scores = Scores.empty(num_classes, cutoff)
    palettes = palettes_to_compare(videos)
    total = sum(len(paths) for _, paths in jobs)
    with Progress(total=total, desc="score", unit="frame", dynamic_ncols=True) as bar:

        def score(job: tuple[Video, list[Path]]) -> VideoScore:
            video, paths = job

            def frames():
                for i, path in zip(video.targets, paths, strict=True):
                    label = _read_label(video, i, num_classes)
                    prediction = read_prediction(path, num_classes, video.coding.colours, palettes)
                    if label.shape != prediction.shape:
                        (h, w), (height, width) = prediction.shape, label.shape
                        raise InputError(path, f"is {w}x{h}, its mask {width}x{height}", "write it at the mask's size")
                    yield label, prediction
                    bar.update()

            return score_video(video.name, frames(), num_classes, video.sparse)

        pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
        try:
            for video_score in pool.map(score, jobs):
                scores = scores.update(video_score)
        finally:
            pool.shutdown(cancel_futures=True)
    return scores


def _read_label(video: Video, i: int, num_classes: int) -> np.ndarray:
    """Labels of a frame; where its file is not there to turn it, of the mask alone."""
    frame, mask = video.frames[i], video.mask(i)
    if isinstance(frame, RecordedFile) or os.path.exists(frame):
        return decode.read_label(frame, mask, num_classes, video.coding)
    return decode.read_mask(mask, num_classes, video.coding)


def evaluate_predictions(options: EvalOptions, interruption: Interruption) -> None:
    """Scores or submits masks that any program wrote. InputError for what cannot be used."""
    check_settings(options.settings, EVALUATED)
    config = with_num_classes(options.settings)
    options = dataclasses.replace(options, settings=config)
    if options.submission:
        videos = evaluation_videos(config, masks=False)
        require_submission(options, videos)
        submit_predictions(
            options.submission, videos, options.predictions, config.model.num_classes, options.submission_values,
            lambda: interruption.stop(interruption.wish),
        )  # fmt: skip
        print_written(options.submission, videos)
        return
    videos = evaluation_videos(config)
    require_splits_agree(config.data.root, config.data.layout, [config.data.eval_split], videos)
    dataset = read_classes(config.data.root, config.model.num_classes, config.data.layout)
    names = dataset.names
    others = _beside(options, videos)
    output = Path(options.output or f"{options.predictions.rstrip('/')}.json")
    require_writable(output)
    if options.report:
        write.require_place(options.report)
    first = options.name or "predictions"
    sources = {first: options.predictions} | others
    rows = {
        name: score_predictions(videos, path, config.model.num_classes, names, cutoff_of(config))
        for name, path in sources.items()
    }
    source = {"predictions": options.predictions} | ({"beside": others} if others else {})
    score_tables.write_and_print(output, source, rows, names)
    if options.report:
        samples = write.together(
            [
                write.prediction_samples(name, path, config.model.num_classes, config.data.first_whole)
                for name, path in sources.items()
            ]
        )
        facts = {"predictions": options.predictions} | others
        about = write.about(config, dataset, facts, beside=tuple(others))
        channels = config.data.frame_channels
        page = write.write_report(options.report, rows, about, dataset, videos, samples, channels)
        print(f"report written to {page}")


def _beside(options: EvalOptions, videos: Sequence[Video]) -> dict[str, str]:
    """The other sources, which have all masks. InputError unless they are masks."""
    others = named_sources(options.beside)
    require_new_names(others, (options.name or "predictions",))
    for path in others.values():
        require_masks(path, videos)
    return others
