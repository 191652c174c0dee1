"""Pictures of the trainings on real videos: curves of the losses, and a strip of masks."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from gpu.plot import GRID, INK, PALE, Panel, in_rows
from PIL import Image

from cffm_jax.config import Config
from cffm_jax.data import decode
from cffm_jax.data.layouts.classes import read_classes
from cffm_jax.drawing.masks import TRUTH, views
from cffm_jax.drawing.sheets import PAPER, Strip, contact_sheet
from cffm_jax.evaluation.mask_folder import frame_file, read_prediction
from cffm_jax.evaluation.options import evaluation_videos
from cffm_jax.rules import with_changes
from cffm_jax.runtime.atomic import whole_file
from cffm_jax.settings import load_config
from cffm_jax.training.log import LOG

from .plan import CFFM, CFFMPP, DATASETS, SPLITS, SYSTEMS, masks_folder

Runs = Mapping[str, Mapping[int, Path]]
"""Model -> seed -> folder of its run."""

_COLOURS = dict(zip(SYSTEMS, ((110, 114, 120), (38, 110, 180), (200, 80, 50)), strict=True))
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 400, 58, 20, 66, 52
_SMOOTH = 5
"""Figures in a running mean."""
_COLUMNS = 5
_CELL = 230
"""Longest side of a frame in the strip, in pixels."""


def losses(runs: Mapping[int, Path]) -> tuple[np.ndarray, np.ndarray]:
    """Steps and the mean of the seeds' losses, of the masks that the network itself gives."""
    by_seed: list[dict[int, float]] = []
    for workdir in runs.values():
        lines = [json.loads(line) for line in (workdir / LOG).read_text().splitlines()]
        # The second stage has no other loss than this one.
        by_seed.append(
            {line["step"]: line.get("clip_loss", line["loss"]) for line in lines if line["group"] == "train"}
        )
    steps = sorted(set.intersection(*map(set, by_seed)))
    return np.array(steps), np.array([[each[step] for each in by_seed] for step in steps]).mean(1)


def running_mean(values: np.ndarray, count: int = _SMOOTH) -> np.ndarray:
    """Of so many neighbours around each value, fewer at the ends."""
    reach = count // 2
    return np.array([values[max(0, i - reach) : i + reach + 1].mean() for i in range(len(values))])


def curves(runs: Mapping[str, Runs]) -> np.ndarray:
    """A panel for each dataset: losses over steps, CFFM++ after the CFFM that it continues."""
    return in_rows([_panel(DATASETS[dataset].title, systems) for dataset, systems in runs.items()])


def _panel(title: str, systems: Runs) -> np.ndarray:
    lines = {model: losses(runs) for model, runs in systems.items() if runs}
    if CFFMPP in lines:
        steps, values = lines[CFFMPP]
        lines[CFFMPP] = steps + int(lines[CFFM][0][-1]), values
    panel = Panel(_WIDTH, _HEIGHT)
    panel.text(_LEFT, 18, f"{title}: training loss", INK)
    if not lines:
        panel.text(_LEFT, 40, "no run is finished yet", PALE)
        return panel.finished()
    last, top = max(steps[-1] for steps, _ in lines.values()), max(values.max() for _, values in lines.values())
    across, up = _ticks(float(last)), _ticks(float(top) or 1.0)

    def place(step: float, value: float) -> tuple[float, float]:
        x = _LEFT + step / across[-1] * (_WIDTH - _LEFT - _RIGHT)
        return x, _HEIGHT - _BOTTOM - value / up[-1] * (_HEIGHT - _TOP - _BOTTOM)

    for step in across:
        panel.line([place(step, 0), place(step, up[-1])], GRID)
        panel.text(*place(step, 0), f"{step:g}", PALE, anchor="ma")
    for value in up:
        panel.line([place(0, value), place(across[-1], value)], GRID)
        x, y = place(0, value)
        panel.text(x - 6, y, f"{value:g}", PALE, anchor="rm")
    panel.text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 28, "steps", PALE, anchor="ma")
    panel.sideways(16, (_TOP + _HEIGHT - _BOTTOM) // 2, "cross entropy", PALE)
    x = float(_LEFT)
    for model, (steps, values) in lines.items():
        colour = _COLOURS[model]
        for shown, fill, width in ((values, (*colour, 70), 1.0), (running_mean(values), (*colour, 255), 2.2)):
            panel.line([place(*point) for point in zip(steps.tolist(), shown.tolist(), strict=True)], fill, width)
        words = f"{SYSTEMS[model]}, {len(systems[model])} seed{'s' * (len(systems[model]) > 1)}"
        panel.line([(x, 42), (x + 22, 42)], colour, 2.2)
        panel.text(x + 28, 42, words, INK)
        x += 48 + panel.length(words)
    return panel.finished()


def _ticks(most: float) -> list[float]:
    """0 and round numbers, the last at or above ``most``."""
    unit = 10 ** math.floor(math.log10(most))
    step = next(unit * share for share in (0.1, 0.2, 0.25, 0.5, 1, 2) if most <= 6 * unit * share)
    return [round(i * step, 9) for i in range(math.ceil(most / step) + 1)]


def strip(folder: Path, runs: Mapping[str, Runs], roots: Mapping[str, str], seed: int) -> np.ndarray | None:
    """Frames, ground truth and masks of a video of each dataset; None while no masks are there."""
    sheets = []
    for of in SPLITS:
        systems = runs[of.dataset]
        masks = {model: masks_folder(folder, of, model, seed) for model in systems if seed in systems[model]}
        masks = {model: path for model, path in masks.items() if path.is_dir()}
        if of.strip and masks:
            config = load_config(str(systems[next(iter(masks))][seed]))
            changes = [("data.root", roots[of.dataset]), ("data.eval_split", of.split)]
            sheets.append(_sheet(of.title, *of.strip, with_changes(config, changes), masks))
    if not sheets:
        return None
    width = max(sheet.shape[1] for sheet in sheets)
    padded = [
        np.pad(sheet, ((0, 0), (0, width - sheet.shape[1]), (0, 0)), constant_values=PAPER[0]) for sheet in sheets
    ]
    return np.concatenate(padded)


def _sheet(title: str, name: str, stride: int, config: Config, masks: Mapping[str, Path]) -> np.ndarray:
    """Frames around the middle of a video, ``stride`` from one to the next."""
    video = next(video for video in evaluation_videos(config) if video.name == name)
    classes = config.model.num_classes
    names, colours = read_classes(config.data.root, classes, config.data.layout)
    times = [len(video.frames) // 2 + stride * (i - _COLUMNS // 2) for i in range(_COLUMNS)]
    cells, shown = [], set()
    for time in times:
        frame, mask = video.frames[time], video.mask(time)
        rows = {TRUTH: decode.read_label(frame, mask, classes, video.coding)}
        for model, path in masks.items():
            rows[SYSTEMS[model]] = read_prediction(path / name / frame_file(frame), classes, video.coding.colours)
        shown |= {int(k) for each in rows.values() for k in np.unique(each)}
        cells.append(views(decode.read_picture(frame, config.data.frame_channels), rows, colours, _CELL))
    heads = [f"frame {time}" for time in times]
    return contact_sheet([Strip(f"{title}: {name}", heads, cells, frozenset(shown))], names, colours)


def write_webp(path: Path, picture: np.ndarray) -> None:
    """Writes a picture of many frames, which takes ten times the bytes as a PNG."""
    with whole_file(path) as partial:
        Image.fromarray(picture).save(partial, format="WEBP", quality=70, method=6)
