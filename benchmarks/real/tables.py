"""Tables of evaluations over seeds: mean and spread, and differences of the same seeds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cffm_jax.metrics.all_metrics import METRICS
from cffm_jax.metrics.metric import Metric
from cffm_jax.study.results import mean_and_spread

from .plan import CFFM, CFFMPP, ITSELF, SEGFORMER, SYSTEMS, Evaluated, figures_file, references_of

KEYS = ("miou", "vc8", "vc16", "boundary_iou", "cc8", "cc16", "flicker")
SHOWN = [metric for metric in METRICS if metric.key in KEYS]
PER_FRAME = "per-frame logits"

BySeed = Mapping[int, Mapping[str, Any]]
"""Seed -> key of a metric -> figure, None where nothing was there to measure."""


def by_seed(folder: Path, of: Evaluated, seeds: Sequence[int]) -> dict[str, BySeed]:
    """The rows of a split's table that are there."""
    rows: dict[str, dict[int, Mapping[str, Any]]] = {}
    for model, title in SYSTEMS.items():
        for references in references_of(model, of):
            label = title if model == SEGFORMER else f"{title}, {references.label}"
            for seed in seeds:
                path = figures_file(folder, of, model, seed, references)
                if not path.is_file():
                    continue
                figures = list(json.loads(path.read_text())["rows"].values())
                if model == CFFM and references is of.references[0]:
                    rows.setdefault(f"{title}, {PER_FRAME}", {})[seed] = figures[-1]
                rows.setdefault(label, {})[seed] = figures[0]
    return rows


def pairs(of: Evaluated) -> Iterator[tuple[str, str]]:
    """Labels of rows whose difference is of interest."""
    usual = of.references[0].label
    yield f"{SYSTEMS[CFFM]}, {usual}", SYSTEMS[SEGFORMER]
    yield f"{SYSTEMS[CFFM]}, {usual}", f"{SYSTEMS[CFFM]}, {PER_FRAME}"
    for model in (CFFM, CFFMPP):
        for references in of.references:
            yield f"{SYSTEMS[model]}, {references.label}", f"{SYSTEMS[model]}, {ITSELF.label}"
    yield f"{SYSTEMS[CFFMPP]}, {usual}", f"{SYSTEMS[CFFM]}, {usual}"


def cell(metric: Metric, rows: BySeed) -> str:
    """Mean ± sample standard deviation; the mean alone of one seed; "-" where a figure is missing."""
    mean, spread = mean_and_spread([figures[metric.key] for figures in rows.values()])
    if mean is None:
        return "-"
    more = "" if spread is None else f" ± {metric.scale * spread:.2f}"
    return f"{metric.scale * mean:.2f}{more}"


def paired_cell(metric: Metric, one: BySeed, other: BySeed) -> str:
    """Mean ± sample standard deviation of the differences of the same seeds, and in how many of
    them the sign is the mean's."""
    values = [(one[seed][metric.key], other[seed][metric.key]) for seed in one if seed in other]
    differences = [None if None in pair else pair[0] - pair[1] for pair in values]
    mean, spread = mean_and_spread(differences)
    if mean is None:
        return "-"
    agreeing = sum(each * mean > 0 for each in differences if each is not None)
    more = "" if spread is None else f" ± {metric.scale * spread:.2f} ({agreeing} of {len(values)})"
    return f"{metric.scale * mean:+.2f}{more}"


def markdown(folder: Path, of: Evaluated, seeds: Sequence[int]) -> str:
    """A split's figures, then their differences, in percent; "" where nothing was evaluated."""
    rows = by_seed(folder, of, seeds)
    if not rows:
        return ""
    heads = [metric.title for metric in SHOWN]
    lines = [f"{of.title}:", "", *_head("%", "seeds", *heads)]
    lines += [_line(label, len(each), *(cell(metric, each) for metric in SHOWN)) for label, each in rows.items()]
    lines += ["", *_head("difference", "seeds", *heads)]
    for one, other in pairs(of):
        both = rows.get(one, {}), rows.get(other, {})
        common = both[0].keys() & both[1].keys()
        if common:
            cells = (paired_cell(metric, *both) for metric in SHOWN)
            lines.append(_line(f"{one} − {other}", len(common), *cells))
    return "\n".join(lines)


def _head(*cells: str) -> tuple[str, str]:
    return _line(*cells), "|---" * len(cells) + "|"


def _line(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"
