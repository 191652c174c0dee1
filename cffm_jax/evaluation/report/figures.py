"""The page's figures of the split: rows beside the papers', classes, what is taken for what."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cffm_jax.data.layouts import classes
from cffm_jax.evaluation import score_tables
from cffm_jax.evaluation.report.html import (
    NONE,
    chip,
    class_name,
    counted,
    element,
    first_of_group,
    percent,
    scrolling,
    signed,
)
from cffm_jax.metrics import all_metrics
from cffm_jax.metrics.confusion import Confusion
from cffm_jax.metrics.metric import Metric
from cffm_jax.tables.table_types import FIGURES, Row

_PAIRS = 15
"""Confusions listed."""
_TO = " \N{RIGHTWARDS ARROW} "
_UNLABELLED = "No counted video has a labelled pixel."
NO_CONSISTENCY = (
    "There is no video consistency, CC or flicker here: these need the labels of all frames of a video, and longer "
    "videos than the window."
)


class About(NamedTuple):
    """Facts about the evaluation, for the page.

    Attributes:
      title: heading of the page.
      facts: texts below it, by their names.
      published: the papers' rows of the same methods and data.
      notes: sentences below the figures.
      paper: that of the published rows that is the network's own, if one is.
      beside: names of the rows that are of other sources than the first.
    """

    title: str
    facts: Mapping[str, str]
    published: Sequence[Row] = ()
    notes: Sequence[str] = ()
    paper: Row | None = None
    beside: Sequence[str] = ()


def figures_section(tree: Mapping[str, Any], about: About) -> list[ET.Element]:
    first = next(iter(tree.values()))
    paper = about.paper
    tiles = []
    for metric in all_metrics.METRICS:
        if metric.key not in FIGURES.values():
            continue
        beside = []
        for name in about.beside or list(tree)[1:][-1:]:
            parts = element("span", name), element("span", shown(metric, tree[name]))
            beside.append(element("small", *parts))
        if paper and _published(paper, metric.key):
            parts = element("span", f"published, {paper.method}"), element("span", _published(paper, metric.key))
            beside.append(element("small", *parts))
        tiles.append(element("div", metric.title, element("b", shown(metric, first)), *beside, class_="tile"))
    heads = [element("th", name, scope="col") for name in tree]
    heads += [element("th", row.method, scope="col", class_=first_of_group(i)) for i, row in enumerate(about.published)]
    lines = []
    for metric in all_metrics.METRICS:
        cells = [element("td", shown(metric, figures)) for figures in tree.values()]
        cells += [
            element("td", _published(row, metric.key), class_=first_of_group(i))
            for i, row in enumerate(about.published)
        ]
        lines.append(element("tr", element("th", metric.title, scope="row"), *cells))
    over = []
    if about.published:
        counts = {"here": len(tree), "as published": len(about.published)}
        groups = [element("td", who, colspan=count, class_="group") for who, count in counts.items()]
        over = [element("tr", element("th"), *groups)]
    head = element("thead", *over, element("tr", element("th", "%", scope="col"), *heads))
    meanings = []
    for metric in all_metrics.METRICS:
        direction = "; lower is better" if metric.lower_is_better else ""
        meanings += [element("dt", metric.title), element("dd", metric.meaning + direction)]
    return [
        element("div", *tiles, class_="tiles"),
        scrolling(element("table", head, element("tbody", *lines)), "Figures in percent"),
        element("details", element("summary", "What these are"), element("dl", *meanings, class_="facts")),
        *(element("p", note, class_="note") for note in _notes(tree, about)),
    ]


def shown(metric: Metric, figures: Mapping[str, Any]) -> str:
    """The metric's text, of figures by key."""
    return metric.text(figures[metric.key], missing=NONE)


def _notes(tree: Mapping[str, Any], about: About) -> list[str]:
    figures = next(iter(tree.values()))
    notes = [
        f"In percent, over {counted(figures['videos'], 'video')} with {counted(figures['frames'], 'labelled frame')}."
    ]
    if figures["left_out"]:
        left = score_tables.short_videos(figures["videos_longer_than"], figures["left_out"])
        notes.append(f"{left}, as the released script has it.")
    if figures["vc8_paper"] is None:
        notes.append(NO_CONSISTENCY)
    else:
        counts = figures["measured_videos"]
        measured = ", ".join(f"{m.title} {counts[m.key]}" for m in all_metrics.METRICS if m.key in counts)
        notes.append(f"Videos that could be measured: {measured}.")
    if about.published:
        notes.append(
            "Published: CFFM (CVPR 2022) and CFFM++ (TPAMI 2024), each figure of a network that was trained by itself."
            + (" The rows here are parts of one network." if len(tree) > 1 and not about.beside else "")
        )
    else:
        notes.append("The papers have no figures to set beside these.")
    return [*notes, *about.notes]


def _published(row: Row, key: str) -> str:
    """A published figure with a digit-wide space after it: it has one place less than ours."""
    value = getattr(row, key, None)
    return "" if value is None else f"{value:.1f}\N{FIGURE SPACE}"


def classes_section(tree: Mapping[str, Any], dataset: classes.Classes) -> list[ET.Element]:
    (row, figures), *others = tree.items()
    last = others[-1] if others else None
    total = max(1, sum(c["pixels"] for c in figures["per_class"]))
    occurring = [k for k, c in enumerate(figures["per_class"]) if c["iou"] is not None]
    if not occurring:
        return [element("p", _UNLABELLED, class_="note")]
    lines = []
    for k in sorted(occurring, key=lambda k: -figures["per_class"][k]["iou"]):
        own_class = figures["per_class"][k]
        name = element("span", chip(dataset, k), class_name(dataset, k), class_="name")
        name.append(element("small", f" {percent(own_class['pixels'] / total)}\N{NO-BREAK SPACE}%"))
        style = f"--share: {100 * own_class['iou']:.2f}%"
        bar, change = [element("i")], ""
        if last:
            other = last[1]["per_class"][k]["iou"]
            style += f"; --mark: {100 * other:.2f}%"
            bar.append(element("b"))
            change = signed(100 * (own_class["iou"] - other))
        cells = [element("span", percent(own_class["iou"]), class_="number"), element("span", change, class_="number")]
        lines.append(element("li", name, element("span", *bar, class_="bar", style=style), *cells))
    text = (
        f"IoU of {row} in percent, the best class first, and beside its name the class's share of the labelled pixels."
    )
    text += f" The mark in a bar and the last number compare with {last[0]}." if last else ""
    missing = len(dataset.names) - len(occurring)
    text += f" Without a labelled pixel: {counted(missing, 'class')}." if missing else ""
    return [element("p", text, class_="note"), element("ol", *lines, class_="bars")]


def confusions_section(row: str, confusion: Confusion, dataset: classes.Classes) -> list[ET.Element]:
    if not confusion.counts.any():
        return [element("p", _UNLABELLED, class_="note")]
    counts = confusion.counts.copy()
    np.fill_diagonal(counts, 0)
    wrong, k = int(counts.sum()), len(counts)
    if not wrong:
        return [element("p", "No labelled pixel is wrong.", class_="note")]
    top = np.argsort(-counts, axis=None, kind="stable")[:_PAIRS]
    lines = [
        element(
            "li",
            element("span", f"label{_TO}predicted as", class_="name"),
            element("span"),
            element("span", "errors", class_="number"),
            element("span", "class", class_="number"),
            class_="heads",
        )
    ]
    for label, predicted in ((i // k, i % k) for i in top.tolist()):
        if not (count := int(counts[label, predicted])):
            break
        pair = [chip(dataset, label), class_name(dataset, label), _TO]
        pair += [chip(dataset, predicted), class_name(dataset, predicted)]
        shares = count / wrong, count / int(confusion.pixels()[label])
        style = f"--share: {100 * count / int(counts.max()):.2f}%"
        cells = [element("span", percent(share), class_="number") for share in shares]
        lines.append(
            element(
                "li",
                element("span", *pair, class_="name"),
                element("span", element("i"), class_="bar", style=style),
                *cells,
            )
        )
    text = (
        f"What {row} takes for what most often: in percent of all wrong pixels, and of the pixels of the label's class."
    )
    return [element("p", text, class_="note"), element("ol", *lines, class_="bars pairs")]
