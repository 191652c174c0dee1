"""Draws the training data: augmented clips with their masks, and a video with its ground truth.

    python -m cffm_jax.data.show --config configs/b1_vspw.py --output sheets

``clips.png`` holds clips as the training loader gives them, ``video.png`` a video as it is on disk.
Needs neither a model nor JAX.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from cffm_jax.channels import COLOURS, Channels
from cffm_jax.config import IGNORED_LABEL, Config
from cffm_jax.data import channel_files, decode
from cffm_jax.data.layouts.classes import read_classes, with_num_classes
from cffm_jax.data.layouts.read import read_videos
from cffm_jax.data.layouts.video import Video
from cffm_jax.data.pipeline import training_batches
from cffm_jax.drawing.masks import INPUT, TRUTH, views
from cffm_jax.drawing.sheets import CELL, Strip, contact_sheet, spread, write_png
from cffm_jax.errors import InputError
from cffm_jax.rules import require_values, setting
from cffm_jax.runtime.atomic import WholeFolder, require_new_folder
from cffm_jax.runtime.command_line import CommandLine, run_command
from cffm_jax.settings import Settings, load_config

OVERLAY = "with its mask"
_STEPS = 5
"""Frames of the video on its sheet."""


@dataclasses.dataclass(frozen=True)
class ShowOptions:
    output: str = setting("", path=True)
    """New folder for the pictures."""
    config: str = setting("", path=True)
    """Config file, or the name of one of configs/, such as b1_vspw; the options below override its
    fields."""
    clips: int = setting(6, least=1)
    """Clips on the sheet, one a row."""
    video: str = ""
    """Video on the other sheet; default: the training split's first."""
    seed: int = setting(0, least=0)
    """Other seeds draw other clips."""
    settings: Settings = Config()


def clip_strips(config: Config, videos: Sequence[Video], count: int, seed: int, colours: np.ndarray) -> list[Strip]:
    """First clips that training with this seed reads, from its own loader; ``colours`` u8[256,3].

    Raises:
      InputError: a file cannot be used, or a setting does not fit.
    """
    data = dataclasses.replace(config.data, samples="clips")
    heads = [*(f"t-{offset}" for offset in data.offsets), "t"]
    with training_batches(videos, data, num_classes=config.model.num_classes, batch_size=1, seed=seed) as batches:
        return [_clip_strip(next(batches), videos, heads, colours, data.frame_channels) for _ in range(count)]


def _clip_strip(
    batch: dict[str, np.ndarray],
    videos: Sequence[Video],
    heads: Sequence[str],
    colours: np.ndarray,
    channels: Channels,
) -> Strip:
    frames, labels = channel_files.picture(batch["frames"][0], channels), batch["labels"][0]
    unlabelled = np.full((len(frames) - len(labels), *labels.shape[1:]), IGNORED_LABEL, np.uint8)
    labels = np.concatenate([unlabelled, labels])  # Of some datasets only the target has a mask.
    cells = [views(frame, {OVERLAY: mask}, colours, CELL) for frame, mask in zip(frames, labels)]
    (height, width), whole = batch["size"][0], labels.shape[1:]
    padding = "" if (height, width) == whole else f", padded to {whole[0]}x{whole[1]}"
    title = f"{videos[batch['video'][0]].name}, height x width {height}x{width}{padding}"
    return Strip(title, heads, cells, frozenset(np.unique(labels).tolist()))


def video_strip(video: Video, num_classes: int, colours: np.ndarray, channels: Channels = COLOURS) -> Strip:
    """A video: frames with masks spread over its length, their masks over them and alone, and the
    classes' shares over time; ``colours`` u8[256,3].

    Raises:
      InputError: a file cannot be used.
    """
    times = video.targets
    shares = np.zeros((len(times), num_classes))
    chosen = tuple(times[i] for i in spread(_STEPS, len(times)))
    cells, labels = [], set()
    for i, time in enumerate(times):
        if time in chosen:
            files = video.frames[time], video.mask(time)
            frame, mask = decode.read_pair(*files, num_classes, video.coding, channels=channels)
            frame = channel_files.picture(frame, channels)
            shown = views(frame, {OVERLAY: mask}, colours, CELL)
            size = shown[INPUT].shape[1::-1]
            cells.append({**shown, TRUTH: colours[cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)]})
        else:
            mask = decode.read_mask(video.mask(time), num_classes, video.coding)
        counts = np.bincount(mask.reshape(-1), minlength=256)
        shares[i] = counts[:num_classes] / mask.size
        labels |= set(np.flatnonzero(counts).tolist())
    title = f"{video.name}, {len(video.frames)} frames"
    return Strip(title, [f"frame {time}" for time in chosen], cells, frozenset(labels), shares)


def main(argv: Sequence[str]) -> None:
    """Draws augmented training clips with their masks, and a video with its ground truth."""

    line = CommandLine(ShowOptions, argv, main.__doc__)
    config = load_config(line.config, line.given) if line.config else Config()
    options = line.over(ShowOptions(config=line.config, settings=config))
    if not options.output:
        raise InputError("--output", "is missing", "name a new folder for the pictures")
    require_values(options)
    folder = Path(options.output)
    require_new_folder(folder, "the pictures")
    config = with_num_classes(options.settings)
    videos = read_videos(config.data, config.data.train_split)
    names, colours = read_classes(config.data.root, config.model.num_classes, config.data.layout)
    video = _find(config, videos, options.video)
    sheets = {
        "clips.png": contact_sheet(clip_strips(config, videos, options.clips, options.seed, colours), names, colours),
        "video.png": contact_sheet(
            [video_strip(video, len(names), colours, config.data.frame_channels)], names, colours
        ),
    }
    with WholeFolder(folder) as made, made.writing() as partial:
        for name, sheet in sheets.items():
            write_png(partial / name, sheet)
    for name, sheet in sheets.items():
        print(f"{folder / name}: {sheet.shape[1]}x{sheet.shape[0]}")


def _find(config: Config, videos: Sequence[Video], name: str) -> Video:
    """A video by its name, of the training split or else of the evaluation's; "" is the first."""
    if not name:
        return videos[0]
    others = read_videos(config.data, config.data.eval_split)
    chosen = next((video for video in (*videos, *others) if video.name == name), None)
    if chosen is None:
        splits = f"{config.data.train_split}.txt or {config.data.eval_split}.txt"
        raise InputError("--video", f"{name!r} is not in {splits}", "name one of theirs")
    return chosen


if __name__ == "__main__":
    sys.exit(run_command(main))
