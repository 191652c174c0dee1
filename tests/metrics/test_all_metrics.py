"""The list of metrics: one object more is summed, merged, printed and written; the documentation says what they are."""

import itertools
import json
import math
import operator
import pickle

import numpy as np
import pytest

from cffm_jax.data.layouts.classes import Classes
from cffm_jax.drawing.palette import palette
from cffm_jax.evaluation import score_tables
from cffm_jax.evaluation.report.figures import About
from cffm_jax.evaluation.report.page import page
from cffm_jax.metrics import all_metrics
from cffm_jax.metrics.all_metrics import METRICS
from cffm_jax.metrics.metric import Metric, Statistic
from cffm_jax.metrics.scores import Scores, VideoTally, score_video

from helpers.runs import ROOT

K = 3
NAMES = ("sky", "road", "person")
FRAMES = {"a": 20, "b": 18, "short": 5, "sparse": 4}


def make_metrics(whole_videos):
    """Two metrics of one statistic: (frames, pixels predicted as class 0)."""

    def add(sums, labels, predictions):
        return sums[0] + len(labels), sums[1] + int((predictions == 0).sum())

    def total(parts):
        return tuple(map(sum, zip(*parts)))

    def value(sums):
        return sums[1] / sums[0] if sums[0] else math.nan

    zeros = Statistic("zeros", lambda _: (0, 0), add, total, whole_videos=whole_videos)
    texts = ("pixels predicted as class 0", "pixels of a frame that are predicted as class 0")
    pooled = Metric("zeros", "zeros", *texts, zeros, value, in_papers=False, per_video="table", scale=1)
    mean = Metric("zeros_mean", "mean zeros", *texts, zeros, value, True, True, lower_is_better=True, per_video="json")
    return pooled, mean


@pytest.fixture
def masks():
    rng = np.random.default_rng(0)
    return {name: rng.integers(0, K, (2, frames, 4, 6), np.uint8) for name, frames in FRAMES.items()}


@pytest.mark.parametrize("whole_videos", [False, True])
def test_a_metric_is_one_object(masks, whole_videos, monkeypatch):
    before = {"x": Scores.empty(K)}
    old = score_tables.to_json(before, NAMES)["x"], score_tables.main_table(before)
    pooled, mean = make_metrics(whole_videos)
    monkeypatch.setattr(all_metrics, "METRICS", (*METRICS, pooled, mean))

    # Summed over a video, in one go or by parts, and merged over the parts of other processes.
    parts = [Scores.empty(K), Scores.empty(K)]
    for i, (name, (labels, predictions)) in enumerate(masks.items()):
        score = score_video(name, zip(labels, predictions, strict=True), K, sparse=name == "sparse")
        tally = VideoTally.empty(K, name == "sparse").extend(labels[:2], predictions[:2])
        again = tally.extend(labels[2:], predictions[2:]).score(name)
        assert score.sums.get("zeros") == again.sums.get("zeros")
        parts[i % 2] = parts[i % 2].update(score)
    parts = [pickle.loads(pickle.dumps(part)) for part in parts]
    scores = parts[1].merge(parts[0])

    counts = {name: (predictions == 0).sum() for name, (_, predictions) in masks.items()}
    known = set(masks) - ({"sparse"} if whole_videos else set())
    long = known - {"short"}
    expected = sum(counts[name] for name in long) / sum(FRAMES[name] for name in long)
    each = {name: counts[name] / FRAMES[name] if name in known else None for name in masks}
    expected_mean = np.mean([each[name] for name in known])
    found = scores.figures()
    assert (found["zeros"], found["zeros_mean"]) == (pytest.approx(expected), pytest.approx(expected_mean))

    # In the printed tables, under its title and in its unit.
    rows = {"CFFM": scores}
    for table, title, text in (
        (score_tables.beyond_table(rows), "zeros", f"{expected:.2f}"),
        (score_tables.main_table(rows), "mean zeros", f"{100 * expected_mean:.2f}"),
    ):
        head, _, line, *_ = table.splitlines()
        end = head.index(title) + len(title)
        assert line[:end].split()[-1] == text
    assert "zeros" in score_tables.video_table(rows) and "mean zeros" not in score_tables.video_table(rows)

    # In eval.json, beside what was there.
    tree = json.loads(json.dumps(score_tables.to_json(rows, NAMES), allow_nan=False))["CFFM"]
    assert (tree["zeros"], tree["zeros_mean"]) == (found["zeros"], found["zeros_mean"])
    for key in ("zeros", "zeros_mean"):
        assert {v["name"]: v[key] for v in tree["per_video"]} == each
    assert [key for key in tree if "zeros" not in key] == list(old[0])

    # In the report, with its meaning and its direction.
    text = page(rows, About("", {}), Classes(NAMES, palette(K)), [], [])
    assert ">zeros</th>" in text and "<dd>pixels predicted as class 0</dd>" in text
    assert "<dd>pixels predicted as class 0; lower is better</dd>" in text

    monkeypatch.undo()
    assert (score_tables.to_json(before, NAMES)["x"], score_tables.main_table(before)) == old


def test_keys_and_titles_are_each_metrics_own():
    for field in ("key", "title"):
        names = [getattr(metric, field) for metric in METRICS]
        assert len(set(names)) == len(names) and "|" not in "".join(names)
    statistics = {metric.statistic for metric in METRICS}
    assert len({statistic.name for statistic in statistics}) == len(statistics)


def test_documentation_defines_every_metric():
    """docs/metrics.md has a line for each definition, in the order of the list."""
    lines = []
    for (definition, lower), metrics in itertools.groupby(
        METRICS, operator.attrgetter("definition", "lower_is_better")
    ):
        titles = ", ".join(metric.title for metric in metrics)
        lines.append(f"| {titles} | {definition}{'. Lower is better' if lower else ''} |")
    document = [line for line in (ROOT / "docs" / "metrics.md").read_text().splitlines() if " | " in line]
    assert [line for line in document if line in lines] == lines
