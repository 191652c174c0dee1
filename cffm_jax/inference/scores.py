"""Scores as text and JSON, and scores of masks that any program wrote.

Needs neither a model nor JAX. ``rows`` are scores by the name they are printed under, e.g. ``{"CFFM": ...}``.
"""

from __future__ import annotations

import dataclasses
import io
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from cffm_jax.data import layouts
from cffm_jax.data.files import read_bytes
from cffm_jax.errors import InputError
from cffm_jax.metrics import RELEASE_LONGER_THAN, Scores, VideoScore, score_video

COLUMNS = {
    "mIoU": "miou",
    "wIoU": "weighted_iou",
    "pixel acc.": "pixel_accuracy",
    "class acc.": "class_accuracy",
    "VC8": "vc8",
    "VC16": "vc16",
    "VC8 Eq. 9": "vc8_paper",
    "VC16 Eq. 9": "vc16_paper",
}
"""Heading in the main table -> field of ``metrics.Figures``."""
BEYOND = {"boundary IoU": "boundary_iou", "CC8": "cc8", "CC16": "cc16", "flicker": "flicker"}
"""Likewise, of the table of what the papers do not report; ``docs/metrics.md`` defines them."""


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.2f}"


def _aligned(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table as text: the first column to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(heads, *lines, strict=True)]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in (heads, rule, *lines)
    )


def main_table(rows: Mapping[str, Scores], longer_than: int = RELEASE_LONGER_THAN) -> str:
    """The published figures in percent, a line for each row, and what they count."""
    figures = {name: scores.figures(longer_than) for name, scores in rows.items()}
    lines = [
        [name, *(_percent(getattr(f, field)) for field in COLUMNS.values()), str(f.videos), str(f.frames)]
        for name, f in figures.items()
    ]
    table = _aligned(["%", *COLUMNS, "videos", "frames"], lines)
    left_out = max((f.left_out for f in figures.values()), default=0)
    if left_out:
        table += f"\nVideos of at most {longer_than} frames ({left_out} here) count in Eq. 9 and CC alone."
    return table


def beyond_table(rows: Mapping[str, Scores], longer_than: int = RELEASE_LONGER_THAN) -> str:
    """What the papers do not report, in percent, a line for each row."""
    figures = {name: scores.figures(longer_than) for name, scores in rows.items()}
    lines = [[name, *(_percent(getattr(f, field)) for field in BEYOND.values())] for name, f in figures.items()]
    return _aligned(["% (docs/metrics.md)", *BEYOND], lines)


def class_table(rows: Mapping[str, Scores], class_names: Sequence[str], longer_than: int = RELEASE_LONGER_THAN) -> str:
    """Each class that occurs: its share of the labelled pixels, then IoU and accuracy of every row, in percent."""
    counted = {name: scores.longer_than(longer_than).confusion() for name, scores in rows.items()}
    heads, columns = ["class"], []
    for i, (name, confusion) in enumerate(counted.items()):
        pixels = confusion.pixels()
        if i == 0:
            heads.append("% of pixels")
            columns.append(pixels / max(pixels.sum(), 1))
        heads += [f"IoU {name}", f"acc. {name}"] if len(rows) > 1 else ["IoU", "acc."]
        columns += [confusion.ious(), confusion.accuracies()]
    lines = [
        [class_names[k], *(_percent(float(column[k])) for column in columns)]
        for k in range(len(class_names))
        if any(confusion.pixels()[k] for confusion in counted.values())
    ]
    return _aligned(heads, lines)


def video_table(rows: Mapping[str, Scores]) -> str:
    """Each video: frames, then mIoU, pixel accuracy, VC8 and VC16 (Eq. 9) of every row, in percent."""
    lines = []
    for row, scores in rows.items():
        for video in scores.videos:
            shares = _video_shares(video)
            lines.append([video.name, row, str(video.frames), *(_percent(share) for share in shares.values())])
    lines.sort(key=lambda line: line[0])  # Stable: the rows of a video keep their order.
    heads = ["video", "row", "frames", "mIoU", "pixel acc.", "VC8 Eq. 9", "VC16 Eq. 9"]
    if len(rows) < 2:
        heads, lines = [heads[0], *heads[2:]], [[line[0], *line[2:]] for line in lines]
    return _aligned(heads, lines)


def _video_shares(video: VideoScore) -> dict[str, float]:
    return {
        "miou": video.confusion.miou(),
        "pixel_accuracy": video.confusion.pixel_accuracy(),
        "vc8_paper": video.consistency(8, with_last=True),
        "vc16_paper": video.consistency(16, with_last=True),
    }


def report(rows: Mapping[str, Scores], class_names: Sequence[str], longer_than: int = RELEASE_LONGER_THAN) -> str:
    """All tables, one below the other."""
    totals = main_table(rows, longer_than), beyond_table(rows, longer_than)
    tables = *totals, class_table(rows, class_names, longer_than), video_table(rows)
    return "\n\n".join(tables) + "\n"


def to_json(rows: Mapping[str, Scores], class_names: Sequence[str], longer_than: int = RELEASE_LONGER_THAN) -> dict:
    """All that ``report`` tells, for ``json.dump``: shares of 1; None where nothing was there to measure."""

    def number(x: float) -> float | None:
        return None if math.isnan(x) else float(x)

    tree = {}
    for name, scores in rows.items():
        figures = dataclasses.asdict(scores.figures(longer_than))
        confusion = scores.longer_than(longer_than).confusion()
        near = scores.longer_than(longer_than).boundary_ious()
        columns = zip(class_names, confusion.pixels(), confusion.ious(), confusion.accuracies(), near, strict=True)
        tree[name] = {
            **{field: value if isinstance(value, int) else number(value) for field, value in figures.items()},
            "videos_longer_than": longer_than,
            "per_class": [
                {
                    "name": class_name,
                    "pixels": int(pixels),
                    "iou": number(iou),
                    "accuracy": number(accuracy),
                    "boundary_iou": number(boundary),
                }
                for class_name, pixels, iou, accuracy, boundary in columns
            ],
            "per_video": [
                {
                    "name": video.name,
                    "frames": video.frames,
                    **{field: number(share) for field, share in _video_shares(video).items()},
                    "vc8": number(video.consistency(8, with_last=False)),
                    "vc16": number(video.consistency(16, with_last=False)),
                    "cc8": number(video.right_consistency(8)),
                    "cc16": number(video.right_consistency(16)),
                    "flicker": number(video.flicker()),
                }
                for video in scores.videos
            ],
        }
    return tree


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


def prediction_paths(video: layouts.Video, folder: Path) -> list[Path]:
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
    videos: Sequence[layouts.Video],
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

        def score(job: tuple[layouts.Video, list[Path]]) -> VideoScore:
            video, paths = job

            def frames():
                for i, path in zip(video.targets, paths, strict=True):
                    label = layouts.read_mask(video.masks[i], num_classes, video.coding)
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
