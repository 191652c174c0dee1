"""The interface of a metric, and of a video's sums, which it is computed from and metrics share."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np


def identity(sums: Any) -> Any:
    return sums


@dataclasses.dataclass(frozen=True, eq=False)
class Statistic:
    """Sums of a video's frames, of any type that can be pickled: processes exchange them.

    Attributes:
      name: key of the sums in a video's score.
      empty: number of classes -> the sums of no frames.
      add: (sums, labels u8[n,H,W], predictions u8[n,H,W]) -> sums with n more; changes none.
      total: sums of videos, or of frames counted apart -> those of all; the same in any order.
      finish: the sums after a video's last frame -> what ``total`` and the metrics need of them.
      whole_videos: whether ``add`` needs all frames of the video, in order (else frames are counted
        apart, in threads). Without labels for all frames there are no such sums.
    """

    name: str
    empty: Callable[[int], Any]
    add: Callable[[Any, np.ndarray, np.ndarray], Any]
    total: Callable[[Sequence[Any]], Any]
    finish: Callable[[Any], Any] = identity
    whole_videos: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Metric:
    """A figure of a video or of a set of videos.

    Attributes:
      key: its name in ``eval.json`` and in the training's log.
      title: heading of its column.
      meaning: in a few words, for the report.
      definition: for ``docs/metrics.md``; neighbours with the same text share a line there.
      statistic: the sums that it is computed from.
      value: these sums -> the figure; nan where nothing was there to measure.
      mean_of_videos: whether a set's figure is the mean of its videos'; else that of their sums.
      short_videos: whether videos count that the released script leaves out for their length.
      in_papers: whether it is in the table of the papers' figures; else in that of unreported ones.
      lower_is_better: its direction.
      per_video: whether each video's figure is in ``eval.json`` and in the table of videos.
      per_class: its name for a class in ``eval.json``, and sums -> f64[K] of the classes, with nan.
      scale: factor of the printed number; 100 for percent.
    """

    key: str
    title: str
    meaning: str
    definition: str
    statistic: Statistic
    value: Callable[[Any], float]
    mean_of_videos: bool = False
    short_videos: bool = False
    in_papers: bool = True
    lower_is_better: bool = False
    per_video: Literal["no", "json", "table"] = "no"
    per_class: tuple[str, Callable[[Any], np.ndarray]] | None = None
    scale: float = 100.0

    def text(self, figure: float | None, missing: str = "-") -> str:
        """The figure as it is printed; ``missing`` for nan and None."""
        return missing if figure is None or math.isnan(figure) else f"{self.scale * figure:.2f}"


def mean(values: Iterable[float]) -> float:
    """Mean of the values that are not nan, the same in any order; nan of none."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def number(figure: float) -> float | None:
    """The figure in JSON, which knows no nan."""
    return None if math.isnan(figure) else figure
