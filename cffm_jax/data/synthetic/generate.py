"""Built-in data: procedural videos in VSPW_480p's layout, to try out and test without a download.

    python -m cffm_jax.data.synthetic ROOT --videos-train 40 --videos-val 8 --frames 24 --height 96
    --width 160

Every frame is damaged anew (patches that show something else, blur, flicker, noise); its mask is of
the undamaged scene (`scenes.World`): only the frames before tell what a patch hides.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tyro

from cffm_jax.data.class_names import synthetic_names
from cffm_jax.data.synthetic.damage import damage
from cffm_jax.data.synthetic.scenes import World
from cffm_jax.errors import InputError
from cffm_jax.rules import required
from cffm_jax.runtime.atomic import WholeFolder, unwritable
from cffm_jax.runtime.command_line import parse_command
from cffm_jax.runtime.progress import Progress

SPLITS = ("train", "val", "test")
MARKER = "synthetic.json"
"""File that a finished dataset holds: the options it was made with."""
VERSION = 1
"""Part of the marker; changes whenever the same options give other bytes."""
JPEG_QUALITY = 92


@dataclasses.dataclass(frozen=True)
class SyntheticConfig:
    videos_train: int = 40
    """Videos of the train split."""
    videos_val: int = 8
    """Videos of the val split."""
    videos_test: int = 4
    """Videos of the test split."""
    frames: int = 24
    """Frames of a video."""
    height: int = 96
    """Height of a frame in pixels."""
    width: int = 160
    """Width of a frame in pixels."""
    classes: int = 8
    """Number of classes, 2..124; masks hold 1..classes, and 0 and 255 for what has no class."""
    seed: int = 0
    """Other seeds give other videos."""

    def check(self) -> None:
        """Raises InputError for a value that cannot be used."""
        limits = {
            "videos_train": (0, 9999),
            "videos_val": (0, 9999),
            "videos_test": (0, 9999),
            "frames": (1, 100_000),
            "height": (32, 2160),
            "width": (32, 4096),
            "classes": (2, 124),
            "seed": (0, 2**32 - 1),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                option = "--" + name.replace("_", "-")
                raise InputError(option, f"{value} is out of range", f"give a number in {low}..{high}")
        if not 0.5 <= self.width / self.height <= 4:
            raise InputError("--width", "too far from the height", "give a width of 0.5 to 4 times the height")


def video_rng(config: SyntheticConfig, split: str, index: int, *more: int) -> np.random.Generator:
    """A generator by seed and place alone, not by how many videos or frames there are."""
    return np.random.default_rng([config.seed, SPLITS.index(split), index, *more])


def frames(
    config: SyntheticConfig, split: str, index: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """The frames of a video, in order.

    Yields:
      the damaged frame u8[H,W,3] (RGB); the mask's values u8[H,W]; the frame before the damage
      u8[H,W,3]; where patches hide the scene, bool[H,W].
    """
    world = World(video_rng(config, split, index), config.height, config.width, config.classes)
    for time in range(config.frames):
        clean, labels = world.render(time)
        # + 1: numpy's seeding does not see a zero at the end.
        damaged, hidden = damage(video_rng(config, split, index, time + 1), clean, labels, world.tiles, world.unit)
        yield damaged, labels, clean, hidden


def write_video(root: Path, config: SyntheticConfig, split: str, index: int) -> None:
    """Writes ``data/<split>_<index>/origin/*.jpg`` and ``mask/*.png`` under the root."""
    folder = root / "data" / f"{split}_{index:04d}"
    for part in ("origin", "mask"):
        (folder / part).mkdir(parents=True)
    for time, (colours, labels, _, _) in enumerate(frames(config, split, index)):
        _, jpeg = cv2.imencode(".jpg", colours[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        _, png = cv2.imencode(".png", labels)
        (folder / "origin" / f"{time:08d}.jpg").write_bytes(jpeg.tobytes())
        (folder / "mask" / f"{time:08d}.png").write_bytes(png.tobytes())


def write_dataset(root: Path, config: SyntheticConfig, threads: int) -> None:
    """Fills an empty folder; the bytes do not depend on the number of threads."""
    videos = [(split, index) for split in SPLITS for index in range(getattr(config, f"videos_{split}"))]
    with ThreadPoolExecutor(threads) as pool:
        jobs = [pool.submit(write_video, root, config, split, index) for split, index in videos]
        try:
            for job in Progress(as_completed(jobs), total=len(jobs), unit="video", desc="synthetic"):
                job.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    for split in SPLITS:
        lines = "".join(f"{name}_{index:04d}\n" for name, index in videos if name == split)
        (root / f"{split}.txt").write_text(lines, encoding="utf-8")
    names = json.dumps(synthetic_names(config.classes), indent=1)
    (root / "classes.json").write_text(names + "\n", encoding="utf-8")
    (root / MARKER).write_text(json.dumps(marker(config), indent=1) + "\n", encoding="utf-8")


def marker(config: SyntheticConfig) -> dict[str, int]:
    return {"version": VERSION, **dataclasses.asdict(config)}


def read_marker(root: Path) -> Any:
    """Contents of the folder's marker; None when it has none that can be read."""
    try:
        return json.loads((root / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def generate(root: str | Path, config: SyntheticConfig, *, overwrite: bool = False, threads: int = 2) -> bool:
    """Writes the dataset, all or nothing: in a folder beside the root that at the end replaces it.

    Args:
      root: folder to make; it may exist if empty, or with such a dataset if ``overwrite`` is set.
      config: the options; the same ones give the same bytes.
      overwrite: replaces a dataset that was made with other options.
      threads: videos made at the same time.

    Returns:
      False when the root holds this very dataset already and nothing was done.

    Raises:
      InputError: an option is out of range, the root holds something else, or it cannot be written.
    """
    config.check()
    if not 1 <= threads <= 256:
        raise InputError("--threads", f"{threads} is out of range", "give a number in 1..256")
    root = Path(os.path.realpath(root))
    remedy = "choose a folder that can be written"
    try:
        if _is_there(root, config, overwrite):
            return False
    except OSError as error:
        raise unwritable(root, error, remedy) from error
    with WholeFolder(root, overwrite=overwrite, remedy=remedy) as made, made.writing() as folder:
        write_dataset(folder, config, threads)
    return True


def _is_there(root: Path, config: SyntheticConfig, overwrite: bool) -> bool:
    """Whether the root holds this very dataset, and is to stay. InputError if it holds something
    else that may not be replaced."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    present = read_marker(root) if root.is_dir() else None
    if present == marker(config) and not overwrite:
        return True
    if present is None:
        raise InputError(root, "exists and was not made by this command", "choose another folder or remove it")
    if not overwrite:
        raise InputError(root, "holds a dataset made with other options", "choose another or add --overwrite")
    return False


@dataclasses.dataclass(frozen=True)
class Command:
    root: tyro.conf.Positional[str] = required(path=True)
    """Folder to make."""
    settings: tyro.conf.OmitArgPrefixes[SyntheticConfig] = SyntheticConfig()
    overwrite: bool = False
    """Replace a dataset that this command made with other options."""
    threads: int = 2
    """Videos made at the same time; the result does not depend on it."""


def main(argv: Sequence[str]) -> None:
    """Writes a synthetic dataset in the VSPW_480p layout."""
    options = parse_command(Command, argv, lambda _: Command(root=tyro.MISSING), main.__doc__)
    done = generate(options.root, options.settings, overwrite=options.overwrite, threads=options.threads)
    print(f"{options.root}: written" if done else f"{options.root}: already there with these options, nothing to do")
