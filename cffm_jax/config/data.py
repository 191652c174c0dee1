"""Settings of a dataset, of its clips and their augmentation, and of the loader."""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

from cffm_jax.channels import MEAN, RGB, STD, Channels
from cffm_jax.errors import InputError
from cffm_jax.rules import setting

IGNORED_LABEL = 255
"""Label of the pixels that neither the loss nor the metrics count."""
LayoutName = Literal["vspw", "cityscapes", "folder", "records"]
"""The layouts of datasets: each is a file of that name in ``data/layouts``."""
_SMALL = "{} is too small"


@dataclasses.dataclass(frozen=True)
class DataConfig:
    root: str = setting("data/VSPW_480p", changes="figures", path=True)
    """Dataset folder."""
    layout: LayoutName = "vspw"
    """How it is laid out: vspw (VSPW_480p: data/<video>/origin/*.jpg, data/<video>/mask/*.png,
    <split>.txt), cityscapes (leftImg8bit_sequence, gtFine), folder (one's own videos:
    <video>/frames, <video>/masks, <split>.txt, classes.txt), or records (any of these as python -m
    cffm_jax.data.prepare wrote it); see the documentation (docs/your_data.md)."""
    channels: tuple[str, ...] = setting(RGB, of_weights=True)
    """Names of the frames' channels, in the order of the files. Other than red green blue (thermal,
    depth, near-infrared) they keep the files' values, as float32, and need data.mean and
    data.std."""
    mean: tuple[float, ...] = setting((), goes_with=("data.channels",), of_weights=True)
    """Mean of each channel, in the files' units; without any ImageNet's, of red green blue alone.
    python -m cffm_jax.data.check ROOT --channels NAME ... --statistics prints a dataset's."""
    std: tuple[float, ...] = setting((), goes_with=("data.channels",), of_weights=True)
    """Standard deviation of each channel, as data.mean."""
    train_split: str = "train"
    """Split file (without .txt; in Cityscapes a folder's name) to train on."""
    eval_split: str = setting("val", changes="figures")
    """Split file (without .txt; in Cityscapes a folder's name) to evaluate on."""
    offsets: tuple[int, ...] = setting((9, 6, 3), goes_with=("model.receptive",))
    """How many frames before the target the references lie, oldest first. As data.reverse is drawn
    first, and then the target, 9 6 3 with 0.5 also draws TCB's clips: i, i+3, i+6, i+9 with the
    target i, in a video's order or the reversed one."""
    samples: Literal["clips", "frames"] = "clips"
    """What a training batch holds: clips, or every labelled frame of them as a sample of its own,
    for methods that read no other frames: 9 7 4 with data.reverse 0 gives i, i+2, i+5, i+9. A clip
    is resized, cropped and flipped alike either way. Where not every frame of the data has a mask,
    the samples are targets alone."""
    frame_size: tuple[int, int] = setting((480, 853), goes_with=("data.ratio",), formerly="scale")
    """Height and width that frames are resized to fit, aspect kept; 0 0: their own size, which
    training does not take."""
    ratio: tuple[float, float] = setting((0.5, 2.0), above=0, ascending=True, reads_only_if=("data.ratios", ()))
    """Range of the training resize, relative to data.frame_size."""
    ratios: tuple[float, ...] = setting((), above=0, goes_with=("data.frame_size",))
    """Training resizes that are drawn alike often; without any all within data.ratio are."""
    crop: tuple[int, int] = setting((480, 480), least=32)
    """Height and width of a training crop; multiples of 32, but for image heads on ResNets and
    MobileNetV2."""
    padding: Literal["end", "around"] = "end"
    """Where a clip that is smaller than the crop is padded: at the bottom and right, where the
    network's input is 0, or on both sides with black, which the network reads as it does a frame.
    Labels are ignored there."""
    max_class_share: float = setting(0.75, above=0, most=1)
    """A crop is redrawn while one class covers more than this of the target's labelled pixels; 1:
    never."""
    crop_tries: int = setting(10, least=1)
    """How often a crop is drawn at most."""
    flip: float = setting(0.5, least=0, most=1)
    """Probability of a horizontal flip of the whole clip."""
    reverse: float = setting(0.5, least=0, most=1)
    """Probability of reversing a video's order."""
    distort: float = setting(0.5, least=0, most=1)
    """Probability of each photometric distortion, drawn anew for each frame."""
    brightness: float = setting(32.0, least=0)
    """Largest brightness shift, in grey levels of 255."""
    contrast: tuple[float, float] = setting((0.5, 1.5), least=0, ascending=True)
    """Range of the contrast factor."""
    saturation: tuple[float, float] = setting((0.5, 1.5), least=0, ascending=True)
    """Range of the saturation factor."""
    hue: int = setting(18, least=0, most=180)
    """Largest hue shift, of 180."""
    workers: int = setting(0, least=0, problem=_SMALL, part="loader", changes="nothing")
    """Loader processes; 0 loads in threads of this process."""
    threads: int = setting(2, least=1, problem=_SMALL, part="loader", changes="nothing")
    """Loader threads per process."""
    prefetch: int = setting(4, least=1, problem=_SMALL, part="loader", changes="nothing")
    """Batches kept ready."""
    stall_seconds: float = setting(300.0, least=0, problem=_SMALL, part="loader", changes="nothing")
    """Training stops if no batch comes for so long, for example since a loader process is stuck; 0:
    waits for ever."""
    max_unreadable: int = setting(0, least=0, problem=_SMALL, part="loader", changes="nothing")
    """Training clips of this process that may be replaced by others since a file of theirs is
    unreadable; 0: none."""
    verify: bool = setting(False, part="loader", changes="nothing")
    """Compare every training file's sha256 with <root>/manifest.sha256 (cffm_jax.data.check writes
    it) when reading. Records are compared with checksums of their own, always."""

    @property
    def first_whole(self) -> int:
        """The first frame of a video that has all of its references."""
        return max(self.offsets, default=0)

    @property
    def frame_channels(self) -> Channels:
        """The channels with their statistics. InputError: these are missing, or do not fit."""
        names, mean, std = self.channels, self.mean, self.std
        require_channels("--data.channels", names)
        known = names == RGB
        for option, values in (("--data.mean", mean), ("--data.std", std)):
            if len(values) != len(names) and (mean or std or not known):
                problem = f"has {len(values)} numbers, --data.channels {len(names)} names"
                command = (
                    f"python -m cffm_jax.data.check ROOT --layout folder --channels {' '.join(names)} --statistics"
                )
                raise InputError(option, problem, f"give those that this prints: {command}")
        if min(std, default=1) <= 0:
            raise InputError("--data.std", f"is {' '.join(map(str, std))}", "give numbers above 0")
        return Channels(names, mean or MEAN, std or STD)


def require_channels(option: str, names: tuple[str, ...]) -> None:
    """InputError unless these can be the names of a frame's channels."""
    if not names or len(set(names)) < len(names) or not all(re.fullmatch(r"[^\s,]+", name) for name in names):
        remedy = "give each channel a name of its own, without commas, and spaces between them"
        raise InputError(option, f"is {' '.join(names) or 'empty'}", remedy)
