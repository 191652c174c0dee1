"""What a run measures, and the tables of all: published figures beside ours."""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Sequence
from typing import Any

from cffm_jax.metrics.all_metrics import METRICS
from cffm_jax.metrics.metric import number
from cffm_jax.runtime.atomic import write_json
from cffm_jax.study.plan import SMALL_RESNET, Run, Study, StudyOptions

COMPARED = {metric.title: metric.key for metric in METRICS if metric.key in ("miou", "vc8", "vc16")}
"""Heading -> key of the metric, and field of `Row`: what every table of the papers has."""


def measure(run: Run) -> dict[str, Any]:
    """A run's result, trained and measured unless it is there; the runs that it needs must be done.

    Raises:
      InputError: the data, the weights or the checkpoints cannot be used.
    """
    if run.result.is_file():
        return json.loads(run.result.read_text())
    from cffm_jax.training import loop
    from cffm_jax.training.log import last_times

    began = time.time()
    scores = loop.train(run.config)
    rows = {row: {key: number(figure) for key, figure in of.figures().items()} for row, of in scores.items()}
    result = {
        "row": next(iter(rows)),  # The first is the network's own, the others are its parts'.
        "rows": rows,
        "minutes": round((time.time() - began) / 60, 2),
        "times": last_times(run.workdir),
        "config": dataclasses.asdict(run.config),
    }
    write_json(run.result, result, "name another --folder")
    return result


def mean_and_spread(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation; None if a value is missing, or for one value's spread."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None, None
    return statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None


def results(study: Study, seeds: int) -> list[dict[str, Any]]:
    """Each row's published figures (percent) and ours (shares of 1) for the first ``seeds``."""
    tree = []
    for row, runs in study.runs:
        measured = [json.loads(run.result.read_text()) for run in runs[:seeds]]
        by_seed = [result["rows"][result["row"]] for result in measured]
        ours = {figure: mean_and_spread([figures[figure] for figures in by_seed]) for figure in by_seed[0]}
        tree.append(
            {
                "label": row.label,
                "method": row.method,
                "published": {figure: getattr(row, figure) for figure in COMPARED.values()},
                "mean": {figure: mean for figure, (mean, _) in ours.items()},
                "spread": {figure: spread for figure, (_, spread) in ours.items()},
                "model": runs[0].config.model.name,
                "minutes": mean_and_spread([_time(result, "productive", 60) for result in measured])[0],
                "gigabytes": mean_and_spread([_time(result, "step_bytes", 1e9) for result in measured])[0],
                "runs": [str(run.workdir) for run in runs[:seeds]],
                "figures": by_seed,
            }
        )
    return tree


def _time(result: dict[str, Any], name: str, unit: float) -> float | None:
    """Of a run's last line of times; None where it does not say, as in results of earlier
    versions."""
    value = result.get("times", {}).get(name)
    return None if value is None else value / unit


def markdown(study: Study, options: StudyOptions, seeds: int) -> str:
    """Published figures beside ours: mean ± sample standard deviation of the first ``seeds``; then
    the network that stands for the papers', the minutes of its steps alone, and what a step
    takes."""
    settings = options.settings
    heads = ["row", "method", *(f"{head} {whose}" for head in COMPARED for whose in ("papers", "ours"))]
    heads += ["ours is", "minutes", "GB"]
    backbones = settings.model.name.partition("_")[2]
    if any(row.network and row.network.called for row, _ in study.runs):
        backbones += f", {SMALL_RESNET} in place of ResNet-101"
    absent = "; ".join(row.method for row in study.table.rows if row.network is None)
    lines = [
        f"{study.table.title}. Ours: {backbones}, {settings.train.steps} steps, "
        f"{settings.data.eval_split} of {settings.data.root}, {seeds} seed(s). Papers: VSPW val."
        + (f" Not here yet: {absent}." if absent else ""),
        "",
        "| " + " | ".join(heads) + " |",
        "|---" * len(heads) + "|",
    ]
    for row in results(study, seeds):
        cells = [row["label"], row["method"]]
        for figure in COMPARED.values():
            published, mean, spread = row["published"][figure], row["mean"][figure], row["spread"][figure]
            cells.append("-" if published is None else f"{published:.1f}")
            ours = "-" if mean is None else f"{100 * mean:.1f}"
            cells.append(ours if spread is None else f"{ours} ± {100 * spread:.1f}")
        cells += [row["model"], *("-" if row[of] is None else f"{row[of]:.2f}" for of in ("minutes", "gigabytes"))]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
