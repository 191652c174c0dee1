"""Scores as text and JSON, and scores of masks that any program wrote.

Needs neither a model nor JAX. ``rows`` are scores by printed name, e.g. ``{"CFFM": ...}``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cffm_jax.metrics import all_metrics
from cffm_jax.metrics.metric import Metric, number
from cffm_jax.metrics.scores import Scores
from cffm_jax.runtime.atomic import write_json


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


def main_table(rows: Mapping[str, Scores]) -> str:
    """The published figures, a line for each row, and what they count."""
    metrics = [metric for metric in all_metrics.METRICS if metric.in_papers]
    figures = {name: scores.figures() for name, scores in rows.items()}
    lines = [
        [name, *(metric.text(f[metric.key]) for metric in metrics), str(f["videos"]), str(f["frames"])]
        for name, f in figures.items()
    ]
    table = _aligned(["%", *(metric.title for metric in metrics), "videos", "frames"], lines)
    left_out = max((f["left_out"] for f in figures.values()), default=0)
    if left_out:
        table += f"\n{short_videos(next(iter(rows.values())).cutoff, left_out)}."
    return f"{table}\nVC is video consistency (docs/metrics.md).{_measured(rows, metrics)}"


def short_videos(cutoff: int, left_out: float) -> str:
    """Says in which figures alone the videos count that have no more frames than the cutoff."""
    counting = ", ".join(metric.title for metric in all_metrics.METRICS if metric.short_videos)
    return f"Videos of at most {cutoff} frames ({left_out} here) count in {counting} alone"


def _measured(rows: Mapping[str, Scores], metrics: Sequence[Metric]) -> str:
    """A line: in how many videos the metrics of whole videos could be measured, the same in all
    rows."""
    counts = next((scores.measured() for scores in rows.values()), {})
    measured = ", ".join(f"{metric.title} {counts[metric.key]}" for metric in metrics if metric.key in counts)
    return f"\nVideos that could be measured: {measured}." if measured else ""


def beyond_table(rows: Mapping[str, Scores]) -> str:
    """Table of the metrics that the papers do not report, a line for each row."""
    metrics = [metric for metric in all_metrics.METRICS if not metric.in_papers]
    figures = {name: scores.figures() for name, scores in rows.items()}
    lines = [[name, *(metric.text(f[metric.key]) for metric in metrics)] for name, f in figures.items()]
    table = _aligned(["% (docs/metrics.md)", *(metric.title for metric in metrics)], lines)
    return table + _measured(rows, metrics)


def class_table(rows: Mapping[str, Scores], class_names: Sequence[str]) -> str:
    """Each class that occurs: share of labelled pixels, then every row's IoU and accuracy, in %."""
    counted = {name: scores.counted().confusion() for name, scores in rows.items()}
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
    """Each video: frames, then mIoU, pixel accuracy, VC8 and VC16 (Eq. 9) of every row."""
    metrics = [metric for metric in all_metrics.METRICS if metric.per_video == "table"]
    lines = [
        [video.name, row, str(video.frames), *(metric.text(video.figure(metric)) for metric in metrics)]
        for row, scores in rows.items()
        for video in scores.videos
    ]
    lines.sort(key=lambda line: line[0])  # Stable: the rows of a video keep their order.
    heads = ["video", "row", "frames", *(metric.title for metric in metrics)]
    if len(rows) < 2:
        heads, lines = [heads[0], *heads[2:]], [[line[0], *line[2:]] for line in lines]
    return _aligned(heads, lines)


def report(rows: Mapping[str, Scores], class_names: Sequence[str]) -> str:
    """All tables, one below the other."""
    totals = main_table(rows), beyond_table(rows)
    return "\n\n".join([*totals, class_table(rows, class_names), video_table(rows)]) + "\n"


def to_json(rows: Mapping[str, Scores], class_names: Sequence[str]) -> dict:
    """All of ``report`` for ``json.dump``: shares of 1; None where nothing was to be measured."""
    # Those of the videos' table come first.
    of_videos = sorted(
        (metric for metric in all_metrics.METRICS if metric.per_video != "no"),
        key=lambda metric: metric.per_video != "table",
    )
    return {
        name: {
            **{key: number(figure) for key, figure in scores.figures().items()},
            "videos_longer_than": scores.cutoff,
            "measured_videos": scores.measured(),
            "per_class": _per_class(scores.counted(), class_names),
            "per_video": [
                {
                    "name": video.name,
                    "frames": video.frames,
                    **{metric.key: number(video.figure(metric)) for metric in of_videos},
                }
                for video in scores.videos
            ],
        }
        for name, scores in rows.items()
    }


def _per_class(scores: Scores, class_names: Sequence[str]) -> list[dict[str, Any]]:
    columns = {"pixels": scores.confusion().pixels()}
    for metric in all_metrics.METRICS:
        if metric.per_class:
            key, figures = metric.per_class
            columns[key] = figures(scores.total(metric.statistic))
    return [
        {"name": class_name, **{key: number(column[k].item()) for key, column in columns.items()}}
        for k, class_name in enumerate(class_names)
    ]


def write_and_print(path: Path, source: Mapping[str, Any], rows: Mapping[str, Scores], names: Sequence[str]) -> None:
    """Writes the figures and their ``source``, then prints them: a pipe's reader may have left.

    Raises:
      InputError: the file cannot be written.
    """
    write_json(path, {**source, "rows": to_json(rows, names)})
    print(report(rows, names))
    print(f"figures written to {path}")
