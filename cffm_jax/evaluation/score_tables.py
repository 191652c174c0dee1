"""Scores as text and JSON, and scores of masks that any program wrote.

Needs neither a model nor JAX. ``rows`` are scores by the name they are printed under, e.g. ``{"CFFM": ...}``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from cffm_jax.metrics.scores import RELEASE_LONGER_THAN, Scores, VideoScore

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
