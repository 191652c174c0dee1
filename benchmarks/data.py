"""Training data: CPU time of a clip, by step and by loader, beside a PyTorch DataLoader over albumentations.

    python benchmarks/data.py                                     # synthetic videos of 480x853
    python benchmarks/data.py --root data/VSPW_480p --clips 400   # a dataset's own files
    python benchmarks/data.py --height 1080 --width 1920          # frames stored larger than data.frame_size

Times are CPU time, of this process and the loader's together, as other work on the machine hardly moves it; clips/s
is by the clock. What is compared takes turns, a figure is the median over the rounds. Synthetic files: rendered scenes
with a sensor's noise, JPEG quality 90 (about 100 KB at 480x853), masks of up to 124 classes written by Pillow. The
files are in the page cache after the first round, so "read" is what the system call costs, not a disk.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import itertools
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import grain
import numpy as np
import PIL
import psutil
import tyro
from PIL import Image

from cffm_jax.config import DataConfig
from cffm_jax.data import augment, decode
from cffm_jax.data.image_files import read_bytes
from cffm_jax.data.layouts.read import read_videos
from cffm_jax.data.layouts.video import Video
from cffm_jax.data.pipeline import training_batches
from cffm_jax.data.prepare import command as prepare
from cffm_jax.data.synthetic.generate import SyntheticConfig, video_rng
from cffm_jax.data.synthetic.scenes import World
from cffm_jax.rules import setting

CLASSES = 124
MISSING = "not installed: the bench extra, see make bench-data"


@dataclasses.dataclass(frozen=True)
class Options:
    root: str = setting("", path=True)
    """A dataset in VSPW's layout to read; without, synthetic videos in a temporary folder."""
    split: str = "train"
    """Its split."""
    videos: int = 8
    """Synthetic videos, of 12 frames."""
    height: int = 480
    """Height of their frames."""
    width: int = 853
    """Width of their frames."""
    workers: tuple[int, ...] = (0, 1, 2)
    """Numbers of loader processes."""
    threads: tuple[int, ...] = (1, 2)
    """Numbers of loader threads in each process; 1, as the DataLoader has, is measured in any case."""
    batch: int = 2
    """Clips in a batch."""
    clips: int = 200
    """Clips that each measurement counts."""
    rounds: int = 3
    """Times that everything is measured."""


def write_videos(root: Path, options: Options) -> None:
    config = SyntheticConfig(height=options.height, width=options.width, classes=CLASSES)
    names = [f"video_{index}" for index in range(options.videos)]
    for index, name in enumerate(names):
        for part in ("origin", "mask"):
            (root / "data" / name / part).mkdir(parents=True)
        rng = video_rng(config, "train", index)
        world = World(rng, options.height, options.width, CLASSES)
        for moment in range(12):
            colours, labels = world.render(moment)
            noisy = np.clip(colours + 4 * rng.standard_normal(colours.shape, np.float32), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(root / "data" / name / "origin" / f"{moment:08d}.jpg", quality=90)
            Image.fromarray(labels).save(root / "data" / name / "mask" / f"{moment:08d}.png")
    (root / f"{options.split}.txt").write_text("".join(f"{name}\n" for name in names))


# --- by step


def step_seconds(videos: tuple[Video, ...], data: DataConfig, clips: int) -> dict[str, float]:
    """CPU seconds of each step, in all clips together; the steps are those of the loader, called one by one."""
    spent: dict[str, float] = {}

    def timed(step: str, function: Callable, *arguments: Any) -> Any:
        began = time.process_time()
        result = function(*arguments)
        spent[step] = spent.get(step, 0.0) + time.process_time() - began
        return result

    for index in range(clips):
        rng = np.random.default_rng(index)
        video = videos[index % len(videos)]
        chosen = video.training_clip(rng, data.offsets, data.reverse)
        files = [(path, timed("read", read_bytes, path)) for i in chosen for path in (video.frames[i], video.masks[i])]
        frames = [timed("decode frames", decode.decode_frame, *file) for file in files[::2]]
        labels = [timed("decode masks", decode.decode_mask, *file, CLASSES, video.coding) for file in files[1::2]]
        frames, labels = timed("resize and crop", augment.resize_and_crop, frames, labels, data, rng)
        frames, labels = timed("flip", augment.flip, frames, labels, data, rng)
        frames = timed("distort", augment.distort, frames, data, rng)
        timed("pad", augment.pad, frames, labels, data)
    return spent


def print_steps(options: Options, data: DataConfig) -> None:
    videos = read_videos(data, data.train_split)
    step_seconds(videos, data, len(videos))
    rounds = [step_seconds(videos, data, options.clips) for _ in range(options.rounds)]
    ms = {step: 1e3 * statistics.median(spent[step] for spent in rounds) / options.clips for step in rounds[0]}
    print("\n| step | ms/clip | share |\n|---|---|---|")
    for step, value in [*ms.items(), ("all", sum(ms.values()))]:
        print(f"| {step} | {value:.2f} | {value / sum(ms.values()):.0%} |")


# --- by loader


@contextlib.contextmanager
def ours(data: DataConfig, options: Options, workers: int, threads: int) -> Iterator[Iterator[Any]]:
    """The batches that training gets."""
    data = dataclasses.replace(data, workers=workers, threads=threads)
    videos = read_videos(data, data.train_split)
    with training_batches(videos, data, num_classes=CLASSES, batch_size=options.batch, seed=0) as batches:
        yield batches


class TorchClips:
    """The same clips as one would write them for PyTorch with albumentations.

    The same file names, resize, crop by the target's largest class, flip, distortion frame by frame and padding. Its
    own are the order of flip and crop (no difference in what comes out) and albumentations' saturation, which blends
    with grey where ours scales HSV's. Frames must have the size of `DataConfig.frame_size` already.
    """

    def __init__(self, videos: tuple[Video, ...], data: DataConfig):
        import albumentations as A

        others = {f"{kind}{i}": kind for kind in ("image", "mask") for i in range(1, len(data.offsets) + 1)}
        low, high = (ratio - 1 for ratio in data.ratio)
        lightness = data.brightness / 255
        brightness = A.RandomBrightnessContrast((-lightness, lightness), (0, 0), p=data.distort)
        contrast = A.RandomBrightnessContrast((0, 0), tuple(x - 1 for x in data.contrast), p=data.distort)
        saturation = A.ColorJitter((1, 1), (1, 1), data.saturation, (0, 0), p=data.distort)
        hue = A.ColorJitter((1, 1), (1, 1), (1, 1), (-data.hue / 180, data.hue / 180), p=data.distort)
        contrast_first = A.Sequential([contrast, saturation, hue], p=1)
        contrast_last = A.Sequential([saturation, hue, contrast], p=1)
        pad = A.PadIfNeeded(*data.crop, position="top_left", border_mode=cv2.BORDER_CONSTANT, fill=0, fill_mask=255)
        self.resize = A.Compose(
            [A.RandomScale((low, high), p=1), A.HorizontalFlip(data.flip)], additional_targets=others
        )
        self.colours = A.Compose([brightness, A.OneOf([contrast_first, contrast_last], p=1)])
        self.pad = A.Compose([pad], additional_targets=others)
        self.videos, self.data = videos, data

    def __len__(self) -> int:
        return 10**9

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        data, rng = self.data, np.random.default_rng(index)
        video = self.videos[index % len(self.videos)]
        chosen = video.training_clip(rng, data.offsets, data.reverse)
        frames = [cv2.imread(video.frames[i], cv2.IMREAD_COLOR_RGB) for i in chosen]
        labels = [self.labels(video.masks[i]) for i in chosen]
        frames, labels = self.together(self.resize, frames, labels)
        window = self.window(labels[-1], rng)
        frames = [self.colours(image=frame[window])["image"] for frame in frames]
        frames, labels = self.together(self.pad, frames, [label[window] for label in labels])
        size = [part.stop - part.start for part in window]
        return {"frames": np.stack(frames), "labels": np.stack(labels), "size": np.array(size, np.int32)}

    @staticmethod
    def labels(path: str) -> np.ndarray:
        """VSPW's 1..K as 0..K-1, 0 and 255 as 255."""
        labels = np.array(Image.open(path))
        labels[labels == 0] = 255
        labels -= 1
        labels[labels == 254] = 255
        return labels

    @staticmethod
    def together(transform: Any, frames: list, labels: list) -> tuple[list, list]:
        """Albumentations' way to one draw for several images: each under a name of its own."""
        names = ["", *range(1, len(frames))]
        named = {f"image{i}": frame for i, frame in zip(names, frames)}
        result = transform(**named, **{f"mask{i}": label for i, label in zip(names, labels)})
        return [result[f"image{i}"] for i in names], [result[f"mask{i}"] for i in names]

    def window(self, labels: np.ndarray, rng: np.random.Generator) -> tuple[slice, slice]:
        height, width = (min(side, most) for side, most in zip(labels.shape, self.data.crop))
        for _ in range(self.data.crop_tries):
            top, left = rng.integers(labels.shape[0] - height + 1), rng.integers(labels.shape[1] - width + 1)
            window = slice(top, top + height), slice(left, left + width)
            counts = np.bincount(labels[window].ravel(), minlength=256)[:255]
            if counts.max() <= self.data.max_class_share * counts.sum():
                break
        return window


def one_thread(_: int = 0) -> None:
    cv2.setNumThreads(0)


@contextlib.contextmanager
def pytorch(data: DataConfig, options: Options, workers: int, threads: int) -> Iterator[Iterator[Any]]:
    from torch.utils.data import DataLoader

    one_thread()
    clips = TorchClips(read_videos(data, data.train_split), data)
    spawned = {"multiprocessing_context": "spawn", "worker_init_fn": one_thread} if workers else {}
    batches = iter(DataLoader(clips, options.batch, num_workers=workers, **spawned))
    yield batches
    del batches  # ends its workers


def cpu_seconds() -> float:
    """CPU time of this process and of those it started that still run."""
    times = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
    return time.process_time() + sum(spent.user + spent.system for spent in times)


def measured(loader: Callable, *arguments: Any, clips: int, batch: int) -> tuple[float, float]:
    """(CPU ms a clip, clips a second) of a loader that has come to its steady state."""
    with loader(*arguments) as batches:
        for _ in range(16):
            next(batches)
        cpu, wall = cpu_seconds(), time.perf_counter()
        for _ in range(clips // batch):
            next(batches)
        cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
    count = clips // batch * batch
    return 1e3 * cpu / count, count / wall


def pytorch_versions() -> str:
    """Versions of what the alternative needs; "" where something is missing."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # Or it asks the network for its newest version.
    try:
        import albumentations
        import torch
    except ImportError:
        return ""
    return f"torch {torch.__version__}, albumentations {albumentations.__version__}"


def print_loaders(options: Options, sources: dict[str, DataConfig]) -> None:
    versions = pytorch_versions()
    numbers = list(itertools.product(options.workers, sorted({1, *options.threads})))
    rows = [(name, ours, data, *number) for name, data in sources.items() for number in numbers]
    if versions:
        rows += [(f"DataLoader ({versions})", pytorch, sources["folders"], number, 1) for number in options.workers]
    found: dict[tuple, list[tuple[float, float]]] = {}
    for _, (name, loader, data, workers, threads) in itertools.product(range(options.rounds), rows):
        result = measured(loader, data, options, workers, threads, clips=options.clips, batch=options.batch)
        found.setdefault((name, workers, threads), []).append(result)
    medians = {row: [statistics.median(column) for column in zip(*results)] for row, results in found.items()}
    print(
        "\n| source | workers | threads | ms per clip and core | clips/s | x folders' ms |\n|---|---|---|---|---|---|"
    )
    for (name, workers, threads), (ms, rate) in medians.items():
        ratio = ms / medians["folders", workers, threads][0]
        print(f"| {name} | {workers} | {threads} | {ms:.1f} | {rate:.1f} | {ratio:.2f} |")
    if not versions:
        print(f"| DataLoader ({MISSING}) | | | | | |")


def processor() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    one_thread()
    versions = f"numpy {np.__version__}, opencv {cv2.__version__}, Pillow {PIL.__version__}, grain {grain.__version__}"
    print(f"{processor()}, {os.cpu_count()} cores, {versions}, {datetime.date.today()}\n{options}")
    with tempfile.TemporaryDirectory() as made:
        folders = DataConfig(root=options.root or made, train_split=options.split)
        if not options.root:
            write_videos(Path(made), options)
        print_steps(options, folders)
        arguments = [folders.root, os.path.join(made, "records"), "--splits", options.split]
        prepare.main(arguments)
        made_records = dataclasses.replace(
            folders, root=os.path.join(made, "records", "vspw", "1.0.0"), layout="records"
        )
        print_loaders(options, {"folders": folders, "records": made_records})


if __name__ == "__main__":
    main()
