"""The page's sources side by side: their figures, and how far each is from the first, by class and
by video."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cffm_jax.data.layouts import classes
from cffm_jax.evaluation.report.html import NONE, class_name, counted, element, scrolling, signed
from cffm_jax.metrics import all_metrics
from cffm_jax.metrics.metric import Metric

_BY_VIDEO = ("miou", "vc8_paper", "vc16_paper")
_IOU = next(metric for metric in all_metrics.METRICS if metric.key == "miou")


class _Line(NamedTuple):
    """What is measured, its metric, and the share of each source."""

    head: ET.Element | str
    metric: Metric
    shares: Sequence[float | None]

    def differences(self) -> list[float | None]:
        """Of the others from the first, as they are printed."""
        first, *others = self.shares
        return [None if first is None or x is None else self.metric.scale * (x - first) for x in others]


def side_by_side_section(tree: Mapping[str, Any], names: Sequence[str], dataset: classes.Classes) -> list[ET.Element]:
    """The section of these sources; the others are compared with the first."""
    sources = [tree[name] for name in names]
    figures = [_Line(metric.title, metric, [s[metric.key] for s in sources]) for metric in all_metrics.METRICS]
    by_class = [
        _Line(class_name(dataset, k), _IOU, [each["iou"] for each in of])
        for k, of in enumerate(zip(*(s["per_class"] for s in sources), strict=True))
        if any(each["iou"] is not None for each in of)
    ]
    text = (
        f"The difference is that from {names[0]}, in percent of the whole; of flicker less is better. A click on a "
        f"column's head sorts by it."
    )
    parts = [element("p", text, class_="note"), _table(names, ("%", "figure"), figures, "scroll")]
    parts += [element("h3", "IoU of each class"), _table(names, ("class", "IoU"), _by_gain(by_class))]
    for metric in (metric for metric in all_metrics.METRICS if metric.key in _BY_VIDEO):
        lines = [
            _Line(of[0]["name"], metric, [each[metric.key] for each in of])
            for of in zip(*(s["per_video"] for s in sources), strict=True)
        ]
        lines = _by_gain([line for line in lines if any(share is not None for share in line.shares)])
        if lines:
            summary = element("summary", f"{metric.title} of {counted(len(lines), 'video')}")
            parts.append(element("details", summary, _table(names, ("video", metric.title.split()[0]), lines)))
    return parts


def _by_gain(lines: Sequence[_Line]) -> list[_Line]:
    """Those first in which the second source has gained most on the first."""
    gains = [line.differences()[0] for line in lines]
    order = sorted(range(len(lines)), key=lambda i: (gains[i] is None, -(gains[i] or 0)))
    return [lines[i] for i in order]


def _table(
    names: Sequence[str], what: tuple[str, str], lines: Sequence[_Line], kind: str = "scroll tall"
) -> ET.Element:
    """Each source's figure, and of the others how far it is from the first's; ``what``: heads of
    the lines and of the figures."""
    first, *others = names
    groups = [element("td"), element("td", first, class_="group")]
    groups += [element("td", name, colspan=2, class_="group") for name in others]
    line_head, measure = what
    words = [line_head, measure, *(measure, "difference") * len(others)]
    heads = [
        element("th", word, scope="col", data_column=i, class_="first" if word == measure else "")
        for i, word in enumerate(words)
    ]
    rows = []
    for line in lines:
        shown = [line.metric.text(share, missing=NONE) for share in line.shares]
        cells = [element("td", shown[0], class_="first")]
        for text, difference in zip(shown[1:], line.differences(), strict=True):
            cells.append(element("td", text, class_="first"))
            cells.append(element("td", NONE if difference is None else signed(difference)))
        rows.append(element("tr", element("th", line.head, scope="row"), *cells))
    table = element(
        "table",
        element("thead", element("tr", *groups), element("tr", *heads)),
        element("tbody", *rows),
        class_="sortable",
    )
    return scrolling(table, f"{measure} of each source, side by side", kind)
