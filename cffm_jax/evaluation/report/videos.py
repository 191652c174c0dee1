"""The page's videos: strips of the best and worst with pictures, and the consistency of all."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cffm_jax.data.layouts import classes
from cffm_jax.drawing.masks import INPUT, TRUTH
from cffm_jax.evaluation.report.figures import NO_CONSISTENCY, shown
from cffm_jax.evaluation.report.html import (
    chip,
    class_name,
    counted,
    data_uri,
    element,
    first_of_group,
    frame_class,
    percent,
    scrolling,
    series,
)
from cffm_jax.metrics import all_metrics
from cffm_jax.metrics.metric import Metric

_CONSISTENCY = ("vc8_paper", "vc16_paper")
"""VC of one video is Eq. 9's: the released script has none."""
_LEGEND = 14
"""Classes named below a video."""


class Shot(NamedTuple):
    """A frame of a strip: its index, its JPEG, and PNGs of masks by row, the ground truth last."""

    time: int
    frame: bytes
    masks: Mapping[str, bytes]


class Strip(NamedTuple):
    """A video's strip.

    Attributes:
      name: the video's.
      labels: of the strip's rows: the input, the masks' rows, the ground truth.
      size: height and width of the pictures.
      shots: frames in order.
      classes: those of the masks, the largest first.
    """

    name: str
    labels: Sequence[str]
    size: tuple[int, int]
    shots: Sequence[Shot]
    classes: Sequence[int]

    def size_in_bytes(self) -> int:
        return sum(len(shot.frame) + sum(map(len, shot.masks.values())) for shot in self.shots)


def videos_section(
    tree: Mapping[str, Any], dataset: classes.Classes, best: Sequence[Strip], worst: Sequence[Strip]
) -> list[ET.Element]:
    if not best:
        return [element("p", "There is no video to show.", class_="note")]
    range_ = element("input", type="range", min=0, max=100, value=70)
    text = "By the mIoU of each video. Choose a mask to lay it beside the ground truth, and move the cut."
    parts = [
        element("p", f"{text} Where the ground truth has no class, the frame shows through."),
        element("label", "Masks over frames", range_, class_="cover", hidden=""),
    ]
    for head, strips, before in (("Best", best, 0), ("Worst", worst, len(best))):
        parts += [element("h3", head)] if worst else []
        parts += [_video(tree, dataset, strip, before + i) for i, strip in enumerate(strips)]
    return parts


def _video(tree: Mapping[str, Any], dataset: classes.Classes, strip: Strip, number: int) -> ET.Element:
    """A video: a mask compared with the truth, the strip whose masks it shows, their classes."""
    legend = [element("span", chip(dataset, k), class_name(dataset, k)) for k in strip.classes[:_LEGEND]]
    if len(strip.classes) > _LEGEND:
        legend.append(element("span", f"and {len(strip.classes) - _LEGEND} more"))
    height, width = strip.size
    return element(
        "article",
        element("h3", strip.name),
        element("p", _summary(tree, strip.name), class_="note"),
        element("div", _compare(), _pictures(strip, number), class_="looks"),
        element("div", *legend, class_="legend"),
        id=f"video-{number}",
        class_="video",
        style=f"--ratio: {width / height:.4f}; --steps: {len(strip.shots)}",
    )


def _compare() -> ET.Element:
    """Empty and hidden: the page's script shows a cell of the strip in it."""
    images = [element("img", alt="", class_=side) for side in ("predicted", "truth")]
    tags = [element("span", text, class_=f"tag {side}") for side, text in (("left", ""), ("right", TRUTH))]
    stage = element("div", *images, element("span", class_="cut"), *tags, class_="frame")
    text = f"Cut between prediction and {TRUTH}"
    cut = element("input", type="range", min=0, max=100, step=1, value=50, aria_label=text)
    return element("div", stage, cut, class_="compare", hidden="")


def _pictures(strip: Strip, number: int) -> ET.Element:
    """A line a row, a column a frame; predictions are buttons that choose what is compared."""
    parts = [element("span", class_="corner")]
    parts += [element("span", f"frame {shot.time}", class_="time") for shot in strip.shots]
    first_row, middle = strip.labels[-2], len(strip.shots) // 2
    for label in strip.labels:
        parts.append(element("span", label))
        for t, shot in enumerate(strip.shots):
            look, alt = f"frame {frame_class(number, t)}", f"{label}, frame {shot.time} of {strip.name}"
            truth = f"truth-{number}-{t}"
            if label == INPUT:
                parts.append(element("div", class_=look, role="img", aria_label=alt))
            elif label == TRUTH:
                image = element("img", src=data_uri(shot.masks[label], "png"), alt=alt, id=truth)
                parts.append(element("div", image, class_=look))
            else:
                image = element("img", src=data_uri(shot.masks[label], "png"), alt=alt)
                data = {"data-row": label, "data-time": f"frame {shot.time}", "data-truth": truth}
                data |= {"data-first": ""} if t == middle and label == first_row else {}
                parts.append(element("button", image, type="button", class_=look, **data))
    return element("div", *parts, class_="strip")


def _summary(tree: Mapping[str, Any], name: str) -> str:
    """Names the figures of one video in words."""
    (first_row, figures), *others = ((row, _by_name(tree[row])[name]) for row in tree)
    parts = [f"mIoU {percent(figures['miou'])}"]
    if figures["vc8_paper"] is not None:
        parts.append(f"VC8 {percent(figures['vc8_paper'])}, VC16 {percent(figures['vc16_paper'])}")
    parts += [f"{row}: mIoU {percent(other['miou'])}" for row, other in others[-1:]]
    return f"{counted(figures['frames'], 'frame')}; {'; '.join(parts)}"


def _by_name(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {video["name"]: video for video in figures["per_video"]}


def consistency_section(tree: Mapping[str, Any], strips: Sequence[Strip]) -> list[ET.Element]:
    measured = any(video["vc8_paper"] is not None for video in next(iter(tree.values()))["per_video"])
    parts = [element("p", NO_CONSISTENCY, class_="note")]
    if measured:
        key = [
            element("span", element("span", class_=f"chip key colour-{series(i)}"), row) for i, row in enumerate(tree)
        ]
        first_row = next(iter(tree))
        text = f"VC (video consistency) of each video in percent (Eq. 9), the videos ordered by that of {first_row}."
        parts = [
            element("p", text, class_="note"),
            element("div", *key, class_="legend"),
            element("div", *(_plot(tree, metric) for metric in _metrics(_CONSISTENCY)), class_="plots"),
        ]
    keys = ("miou", *(_CONSISTENCY if measured else ("pixel_accuracy",)))
    count = len(next(iter(tree.values()))["per_video"])
    table = scrolling(_video_table(tree, _metrics(keys), strips), "Figures of each video", "scroll tall")
    return [*parts, element("details", element("summary", f"Figures of {counted(count, 'video')}"), table)]


def _metrics(keys: Sequence[str]) -> list[Metric]:
    return [metric for metric in all_metrics.METRICS if metric.key in keys]


def _plot(tree: Mapping[str, Any], metric: Metric) -> ET.Element:
    """Dots of every row over the videos that have the figure, those of the first row falling."""
    shares = {row: {v["name"]: v[metric.key] for v in figures["per_video"]} for row, figures in tree.items()}
    first_row = next(iter(shares.values()))
    order = sorted((name for name, share in first_row.items() if share is not None), key=lambda name: -first_row[name])
    floor = min((int(10 * shares[row][name]) / 10 for row in shares for name in order), default=0.0)
    floor = min(floor, 0.9)
    paths = []
    for i, by_name in reversed(list(enumerate(shares.values()))):
        places = [
            (100 * (n + 0.5) / len(order), 100 * (1 - by_name[name]) / (1 - floor)) for n, name in enumerate(order)
        ]
        paths.append(element("path", d="".join(f"M{x:.2f} {y:.2f}h0" for x, y in places), class_=f"colour-{series(i)}"))
    axis = []
    for height, level in ((0, floor), (50, (1 + floor) / 2), (100, 1)):
        axis += [
            element("hr", style=f"bottom: {height}%"),
            element("span", f"{100 * level:.0f}", style=f"bottom: {height}%"),
        ]
    svg = element("svg", *paths, viewBox="0 0 100 100", preserveAspectRatio="none", role="img")
    svg.set("aria-label", f"{metric.title} of {counted(len(order), 'video')}; the table below has the numbers")
    dot = "5px" if len(order) > 120 else "8px"
    return element(
        "figure",
        element("figcaption", metric.title.split()[0]),
        element("div", *axis, svg, style=f"--dot: {dot}"),
        class_="plot",
    )


def _video_table(tree: Mapping[str, Any], metrics: Sequence[Metric], strips: Sequence[Strip]) -> ET.Element:
    rows = [_by_name(figures) for figures in tree.values()]
    numbers = {strip.name: i for i, strip in enumerate(strips)}
    groups = [element("th"), element("td")]
    groups += [element("td", m.title.split(" Eq")[0], colspan=len(rows), class_="group") for m in metrics]
    heads = ["video", "frames", *(row for _ in metrics for row in tree)]
    kinds = ["", "", *("first" if i == 0 else "" for _ in metrics for i in range(len(rows)))]
    head = [element("th", h, scope="col", data_column=i, class_=kind) for i, (h, kind) in enumerate(zip(heads, kinds))]
    lines = []
    for name, video in rows[0].items():
        named = element("a", name, href=f"#video-{numbers[name]}") if name in numbers else name
        cells = [element("td", str(video["frames"]))]
        for m in metrics:
            cells += [element("td", shown(m, row[name]), class_=first_of_group(i)) for i, row in enumerate(rows)]
        lines.append(element("tr", element("th", named, scope="row"), *cells))
    return element(
        "table",
        element("thead", element("tr", *groups), element("tr", *head)),
        element("tbody", *lines),
        id="all-videos",
        class_="sortable",
    )
