"""The options of ``eval.py``, and the videos that they ask for."""

from __future__ import annotations

import dataclasses
import os
from typing import Literal

from cffm_jax.config import ClusterConfig, Config
from cffm_jax.data.layouts.read import read_videos, source_of
from cffm_jax.data.layouts.video import Video
from cffm_jax.errors import InputError
from cffm_jax.metrics.scores import RELEASE_LONGER_THAN
from cffm_jax.rules import about, option_name, setting
from cffm_jax.settings import Settings

_OF_A_NETWORK = {
    "not_with": "predictions",
    "not_with_because": (
        "given together with --predictions, which takes no network",
        "leave it out, or give --checkpoint in place of --predictions",
    ),
}
_OF_SEVERAL_PROCESSES = {
    "not_with": "predictions",
    "not_with_because": ("given together with --predictions", "one process reads them: leave it out"),
}
_OF_FIGURES = {
    "not_with": "submission",
    "not_with_because": ("needs figures, and --submission has none", "leave out one of them"),
}


@dataclasses.dataclass(frozen=True)
class EvalOptions:
    config: str = setting("", path=True)
    """Config file, the name of one of configs/, or a run's folder or config.json, for the settings
    it was trained with; without one, the config stored with the checkpoint."""
    checkpoint: str = setting("", path=True, hub=True)
    """Folder of a run, whose latest checkpoint is evaluated (RUN/checkpoints/best,
    RUN/checkpoints/STEP: another), a file of weights of any kind, see convert.py, or hf:owner/name
    of the Hugging Face hub."""
    raw: bool = setting(False, **_OF_A_NETWORK)
    """Of a run with --optim.ema, evaluate the last weights and not their average."""
    split: str = ""
    """The split to evaluate on, in place of the config's: val, test, train; also
    --data.eval-split."""
    predictions: str = setting("", path=True)
    """Score PNGs (0..K-1) in DIR/<video>/<frame>.png that any program wrote, without a model."""
    output: str = setting("", path=True, **_OF_FIGURES)
    """Write all figures to this JSON file; default: <checkpoint>/eval.json, or next to the
    predictions; of the hub's weights in this folder."""
    save_predictions: str = setting("", place=True, **_OF_A_NETWORK)
    """Write the masks as indexed PNGs to this new folder: DIR/<video>/<frame>.png."""
    pictures: str = setting("", place=True, **_OF_A_NETWORK)
    """Draw some of the videos to this folder: sheet.png (frame, per-frame, CFFM, truth) and
    overlay.mp4."""
    beside: tuple[str, ...] = setting((), path=True, hub=True, **_OF_FIGURES)
    """Other sources on the same videos, NAME=PATH or PATH: a folder of masks,
    DIR/<video>/<frame>.png as --save-predictions or any program writes them, or weights as
    --checkpoint takes them (with --predictions masks alone). Each is a further row of the tables,
    the JSON, --pictures, and of --report, which shows how far each is from the first."""
    name: str = ""
    """What the first source is called, the checkpoint's own masks or --predictions; default: as
    the method, or "predictions"."""
    report: str = setting("", place=True, **_OF_FIGURES)
    """Write a page to this new folder that shows all figures beside the papers', the best and the
    worst videos, and what is taken for what: DIR/index.html, for any browser, without a network.
    With --beside also the differences by class and by video."""
    submission: str = setting("", place=True)
    """Write the masks of all frames of the split "test" (or --split) to this new .zip,
    for a challenge's server: <video>/<frame>.png. No labels are needed, and there are no
    figures."""
    submission_values: Literal["stored", "classes"] = setting("stored", only_with="submission")
    """What these masks hold: the dataset's own values (in VSPW's masks class k is k + 1), or the
    classes 0..K-1."""
    settings: Settings = Config()
    cluster: ClusterConfig = setting(ClusterConfig(), **_OF_SEVERAL_PROCESSES)


def require_apart(options: EvalOptions) -> None:
    """InputError where two of the places that are written to are the same, or one lies in the
    other."""
    names = [name for name, known in about(type(options)).items() if known.place]
    given = {option_name(name): os.path.realpath(getattr(options, name)) for name in names if getattr(options, name)}
    if options.output:
        taken = next((name for name, path in given.items() if path == os.path.realpath(options.output)), None)
        if taken:
            raise InputError("--output", f"names the same place as {taken}", "name two places")
    places = list(given.items())
    for i, (name, path) in enumerate(places):
        for other, place in places[:i]:
            if path == place:
                raise InputError(name, f"names the same place as {other}", "name two places")
            if os.path.commonpath([path, place]) in (path, place):
                inner, outer = (name, other) if len(path) > len(place) else (other, name)
                raise InputError(inner, f"lies inside of {outer}", "name places that do not hold each other")


def cutoff_of(config: Config) -> int:
    """Frames up to which a video is left out of the figures, by ``eval.short_videos``; 0: none is.

    Raises:
      InputError: the data are records that cannot be read.
    """
    rule, data = config.eval.short_videos, config.data
    left_out = source_of(data.layout, data.root).short_videos_left_out if rule == "auto" else rule == "left_out"
    return RELEASE_LONGER_THAN if left_out else 0


def evaluation_videos(config: Config, masks: bool = True) -> tuple[Video, ...]:
    """The videos of the config's evaluation split, the first ``eval.max_videos`` of them if that is
    set; without ``masks`` of a split that need not have any.

    Raises:
      InputError: the split cannot be read.
    """
    videos = read_videos(config.data, config.data.eval_split, masks)
    return videos[: config.eval.max_videos or None]
