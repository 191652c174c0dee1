"""The evaluation's report: one page of HTML with its pictures inside. Needs no model.

``page`` says what stands on it.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

from cffm_jax.channels import COLOURS, Channels
from cffm_jax.config import IGNORED_LABEL, Config
from cffm_jax.data import channel_files
from cffm_jax.data.class_names import CITYSCAPES, VSPW
from cffm_jax.data.decode import read_pair
from cffm_jax.data.layouts import classes
from cffm_jax.data.layouts.video import Video
from cffm_jax.drawing.masks import INPUT, TRUTH, shown_size
from cffm_jax.evaluation.mask_folder import prediction_paths, read_prediction
from cffm_jax.evaluation.pictures import shown_times
from cffm_jax.evaluation.report.figures import About
from cffm_jax.evaluation.report.page import page
from cffm_jax.evaluation.report.videos import Shot, Strip
from cffm_jax.metrics.confusion import CONFUSION
from cffm_jax.metrics.scores import Scores
from cffm_jax.runtime import cluster
from cffm_jax.runtime.atomic import WholeFolder, require_new_folder, unwritable
from cffm_jax.tables import table_types
from cffm_jax.tables.rows import published

if TYPE_CHECKING:
    from cffm_jax.inference.whole_videos import Chunk

PAGE = "index.html"
_BEST = 5
"""Videos shown of the best, and as many of the worst."""
_STEPS = 3
"""Frames shown of a video."""
_LONGEST = 480
"""Longest side of a picture, in pixels."""
_ROOM = 9 * 2**20
"""Bytes of all pictures together; as text in the page they are a third longer."""

Samples = Callable[[Video], Mapping[int, Mapping[str, np.ndarray]]]
"""Masks u8[H,W] of some frames of a video, by the frames' indices and by row; of any size."""


class MaskSamples:
    """Keeps masks of a few frames of every video: which are shown is known only at the end.

    Called with each chunk, by any process or thread, then ``gather``ed. Masks are kept as PNGs of
    the shown size, some 5 KB each: 20 MB for the four rows of VSPW's 343 validation videos.

    Args:
      videos: those that will be segmented.
      first: earliest frame that is kept, if the video is long enough.
    """

    def __init__(self, videos: Sequence[Video], first: int):
        self._times = {video.name: shown_times(video, _STEPS, first) for video in videos}
        self._kept: dict[str, dict[int, dict[str, bytes]]] = {}

    def __call__(self, chunk: Chunk) -> None:
        for time in self._times[chunk.video.name]:
            if 0 <= (i := time - chunk.start) < len(chunk.predictions):
                encoded = {row: _png(_reduced(masks[i])) for row, masks in chunk.masks.items()}
                self._kept.setdefault(chunk.video.name, {})[time] = encoded

    def gather(self) -> None:
        """Takes in what the other processes keep; all have to call it."""
        self._kept = {name: kept for share in cluster.gathered(self._kept) for name, kept in share.items()}

    def of(self, video: Video) -> dict[int, dict[str, np.ndarray]]:
        """The samples of a video, as `Samples`."""

        def decode(data: bytes) -> np.ndarray:
            mask = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            assert mask is not None  # `_png` wrote it.
            return mask

        kept = self._kept[video.name]
        return {time: {row: decode(data) for row, data in kept[time].items()} for time in sorted(kept)}


def prediction_samples(row: str, predictions: str | Path, num_classes: int, first: int) -> Samples:
    """Samples, named ``row``, of masks on disk as `predictions.score_predictions` reads them."""

    def of(video: Video) -> dict[int, dict[str, np.ndarray]]:
        paths = dict(zip(video.targets, prediction_paths(video, Path(predictions) / video.name), strict=True))
        times, stated = shown_times(video, _STEPS, first), video.coding.colours
        return {time: {row: read_prediction(paths[time], num_classes, stated)} for time in times}

    return of


def together(samples: Sequence[Samples]) -> Samples:
    """The samples of several sources as one, their rows in order."""

    def of(video: Video) -> dict[int, dict[str, np.ndarray]]:
        parts = [each(video) for each in samples]
        return {time: {row: mask for part in parts for row, mask in part[time].items()} for time in parts[0]}

    return of


def published_rows(class_names: Sequence[str], split: str, model: str = "") -> tuple[table_types.Row, ...]:
    """The papers' rows to set beside a model's ("": any's); none for other data than theirs."""
    known = {(VSPW, "val"): table_types.VSPW, (CITYSCAPES, "val"): table_types.CITYSCAPES}
    where = known.get((tuple(class_names), split))
    return published(where, model) if where else ()


def about(
    config: Config, dataset: classes.Classes, facts: Mapping[str, str], model: str = "", beside: Sequence[str] = ()
) -> About:
    """Facts for the page; paths as they were given.

    Args:
      config: of the evaluation.
      dataset: the classes of its data.
      facts: where the masks come from, by what it is called.
      model: name of the model; "" where nothing is known of it.
      beside: names of the rows that are of other sources.
    """
    data = f"{config.data.root} {config.data.eval_split}"
    notes = []
    if config.eval.max_videos:
        notes.append(f"Only the first {config.eval.max_videos} videos of the split (--eval.max-videos) at most.")
    published = published_rows(dataset.names, config.data.eval_split, model)
    paper = published[0] if model and published else None
    return About(f"{model or 'Predictions'} on {data}", {**facts, "data": data}, published, notes, paper, beside)


def require_place(folder: str | Path) -> None:
    """InputError, before the work, where there is something already or no folder can be made."""
    require_new_folder(folder, "the report")
    path = Path(folder)
    there = next(parent for parent in path.absolute().parents if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise unwritable(path, f"{there} takes no folder")


def write_report(
    folder: str | Path,
    rows: Mapping[str, Scores],
    about: About,
    dataset: classes.Classes,
    videos: Sequence[Video],
    samples: Samples,
    channels: Channels = COLOURS,
) -> Path:
    """Writes ``<folder>/index.html``, the folder whole or not at all.

    Its size is bounded: best and worst videos are shown in turn while their pictures have room.

    Args:
      folder: see ``require_place``.
      rows: the scores, the model's own first.
      about: what was evaluated.
      dataset: its classes.
      videos: those that were scored.
      samples: masks to show.
      channels: of the frames.

    Returns:
      The page's path.

    Raises:
      InputError: a frame cannot be read any more, or the folder cannot be written.
    """
    best, worst = _chosen(next(iter(rows.values())))
    by_name = {video.name: video for video in videos}
    strips: dict[str, Strip] = {}
    room = _ROOM
    for name in _in_turn(best, worst):
        strip = _strip(by_name[name], samples(by_name[name]), dataset, channels)
        if strip.size_in_bytes() <= room:
            room -= strip.size_in_bytes()
            strips[name] = strip
    shown = [[strips[name] for name in names if name in strips] for names in (best, worst)]
    left = len(best) + len(worst) - len(strips)
    if left:
        about = about._replace(notes=[*about.notes, f"{left} of the best and the worst videos have no room here."])
    text = page(rows, about, dataset, shown[0], shown[1])
    with WholeFolder(folder) as made, made.writing() as partial:
        (partial / PAGE).write_text(text, encoding="utf-8", errors="replace")
    return Path(folder) / PAGE


def _chosen(scores: Scores) -> tuple[list[str], list[str]]:
    """Names of the best videos by mIoU, best first, and of the worst, worst first; where there are
    few all are best. Those without a labelled pixel come last, never among the worst."""
    by_miou = {video.name: video.sums[CONFUSION.name].miou() for video in scores.videos}
    known = sorted((name for name, miou in by_miou.items() if not math.isnan(miou)), key=lambda name: -by_miou[name])
    if len(by_miou) <= 2 * _BEST:
        return known + [name for name, miou in by_miou.items() if math.isnan(miou)], []
    return known[:_BEST], known[_BEST:][: -_BEST - 1 : -1]


def _in_turn(best: Sequence[str], worst: Sequence[str]) -> list[str]:
    pairs = [names[i : i + 1] for i in range(max(len(best), len(worst))) for names in (best, worst)]
    return [name for pair in pairs for name in pair]


def _strip(
    video: Video, samples: Mapping[int, Mapping[str, np.ndarray]], dataset: classes.Classes, channels: Channels
) -> Strip:
    """A video's pictures: frames with their masks at the size at which they are shown."""
    shots, pixels, size = [], np.zeros(256, np.int64), (0, 0)
    coloured: dict[str, bytes] = {}
    for time, rows in samples.items():
        files = video.frames[time], video.mask(time)
        frame, truth = read_pair(*files, len(dataset.names), video.coding, channels=channels)
        frame = channel_files.picture(frame, channels)
        size = shown_size(*frame.shape[:2], longest=_LONGEST)
        masks = {row: _resized(rows[row], size) for row in reversed([*rows])} | {TRUTH: _resized(truth, size)}
        for mask in masks.values():
            pixels += np.bincount(mask.reshape(-1), minlength=256)
        smaller = size[0] < frame.shape[0]
        picture = cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
        coloured = {label: _coloured_png(mask, dataset.colours) for label, mask in masks.items()}
        shots.append(Shot(time, _jpeg(picture), coloured))
    pixels[IGNORED_LABEL] = 0
    shown = np.argsort(-pixels, kind="stable")[: np.count_nonzero(pixels)]
    return Strip(video.name, (INPUT, *coloured), size, tuple(shots), tuple(shown.tolist()))


def _resized(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return mask if mask.shape == size else cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST)


def _reduced(mask: np.ndarray) -> np.ndarray:
    height, width = shown_size(*mask.shape, longest=_LONGEST)
    return mask if height > mask.shape[0] else _resized(mask, (height, width))


def _png(mask: np.ndarray) -> bytes:
    return cv2.imencode(".png", mask)[1].tobytes()


def _jpeg(frame: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()


def _coloured_png(mask: np.ndarray, colours: np.ndarray) -> bytes:
    """A PNG with a palette of the labels that occur; the ignored label is transparent."""
    values, indices = np.unique(mask, return_inverse=True)
    image = Image.fromarray(indices.reshape(mask.shape).astype(np.uint8))
    image.putpalette(colours[values].tobytes())
    file = io.BytesIO()
    clear = bytes(0 if k == IGNORED_LABEL else 255 for k in values)
    image.save(file, "PNG", optimize=True, **({"transparency": clear} if 0 in clear else {}))
    return file.getvalue()
