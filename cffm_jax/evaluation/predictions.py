"""Scoring of masks on disk that any program wrote."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from cffm_jax.data import decode
from cffm_jax.data.image_files import read_bytes
from cffm_jax.data.layouts.video import Video
from cffm_jax.errors import InputError
from cffm_jax.metrics.scores import Scores, VideoScore, score_video


def read_prediction(path: str | os.PathLike, num_classes: int) -> np.ndarray:
    """Class indices u8[H,W] of an indexed (or grey) 8-bit PNG; InputError on any other file."""
    data = read_bytes(path)
    remedy = f"write one 8-bit channel or a palette with the class index (0..{num_classes - 1}) of each pixel"
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            mode, classes = image.mode, np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(path, "cannot be read as a PNG", "write it again") from error
    if mode not in ("P", "L"):
        raise InputError(path, f"is a PNG of mode {mode}, not of class indices", remedy)
    if classes.size and classes.max() >= num_classes:
        raise InputError(path, f"holds the value {classes.max()}", remedy)
    return classes


def prediction_paths(video: Video, folder: Path) -> list[Path]:
    """The prediction of each frame that has a mask; InputError if one is missing."""
    if not folder.is_dir():
        raise InputError(folder, "no predictions of this video", "write <video>/<frame>.png for every video")
    there = set(os.listdir(folder))
    paths = [folder / f"{Path(video.frames[i]).stem}.png" for i in video.targets]
    missing = [path for path in paths if path.name not in there]
    if missing:
        count = f" ({len(missing)} of {len(paths)} frames of the video)" if len(missing) > 1 else ""
        raise InputError(missing[0], f"prediction is missing{count}", "write <video>/<frame>.png for every frame")
    return paths


def score_predictions(
    videos: Sequence[Video],
    predictions_dir: str | os.PathLike,
    num_classes: int,
    class_names: Sequence[str],
) -> Scores:
    """Scores the masks <predictions_dir>/<video>/<frame stem>.png that any program wrote.

    Args:
      videos: the split; frames that have no mask need no prediction.
      predictions_dir: folder of the predictions: 8-bit indexed PNGs of the masks' size with values 0..K-1.
      num_classes: K.
      class_names: K names, checked here so that the tables cannot fail after the work.

    Raises:
      InputError: a prediction is missing, unreadable, of another size than the mask, or holds what is no class.
    """
    if len(class_names) != num_classes:
        raise ValueError(f"{len(class_names)} class names for {num_classes} classes")
    root = Path(predictions_dir)
    if not root.is_dir():
        raise InputError(root, "no such folder", "give the folder that holds <video>/<frame>.png")
    # All files are looked for before the first is read: a gap shows at once, not after an hour.
    jobs = [(video, prediction_paths(video, root / video.name)) for video in videos]

    scores = Scores.empty(num_classes)
    total = sum(len(paths) for _, paths in jobs)
    with tqdm(total=total, desc="score", unit="frame", dynamic_ncols=True) as bar:

        def score(job: tuple[Video, list[Path]]) -> VideoScore:
            video, paths = job

            def frames():
                for i, path in zip(video.targets, paths, strict=True):
                    label = decode.read_mask(video.masks[i], num_classes, video.coding)
                    prediction = read_prediction(path, num_classes)
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
