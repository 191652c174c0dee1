"""A training that fits one's own data: what `configs/finetune.py` takes from them."""

from __future__ import annotations

import math
import os
import statistics
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cffm_jax.checkpoints.compatible import as_option
from cffm_jax.checkpoints.store import FOLDER
from cffm_jax.config import SETTINGS, Config
from cffm_jax.data.augment import fitted_size
from cffm_jax.data.layouts.classes import with_num_classes
from cffm_jax.data.layouts.read import read_split
from cffm_jax.errors import InputError
from cffm_jax.rules import with_changes, with_paths
from cffm_jax.settings import RUN_CONFIG, load_config
from cffm_jax.training.notes import sampled_sizes

_BOX = (480, 853)
"""The papers' frames, and the size at which frames are trained on at most."""
_LONGEST = 9
"""Frames that the oldest reference lies back at most, as in the papers."""
_BATCH, _RATE = 8, 6e-5
"""The papers' batch, and the rate that they have for it."""
_PASSES, _FEWEST, _MOST = 100, 1000, 40_000
"""How often each labelled frame is a target, and the bounds of the steps that this makes."""


def fitted(base: Config, given: Mapping[str, Any]) -> tuple[Config, tuple[str, ...]]:
    """Fills in what the data say; a run that has begun keeps what it was begun with.

    Args:
      base: the rest of the settings; where no data are there it stays as it is.
      given: values of the command line by dotted name, which hold.

    Returns:
      The config, and a line for each value that was taken: what it is, and why.

    Raises:
      InputError: the data cannot be used.
    """
    own = [(name, value) for name, value in given.items() if name in SETTINGS]
    config = with_paths(with_changes(base, own))
    if not os.path.isdir(config.data.root):
        return base, ()  # For --help; the training asks for it.
    stored = _begun(Path(config.workdir))
    if stored:
        if os.path.realpath(stored.data.root) != os.path.realpath(config.data.root):
            problem = f"is a run on {stored.data.root}, not on {config.data.root}"
            remedy = f"give another --workdir, or --config {config.workdir} if the data were moved"
            raise InputError(config.workdir, problem, remedy)
        return stored, (f"settings: those that {config.workdir} was begun with",)
    taken = _Taken(config, given)
    _take_frames(taken)
    _take_course(taken)
    return taken.config, tuple(taken.lines)


class _Taken:
    """A config to which values are added that were not given, each with a line."""

    def __init__(self, config: Config, given: Mapping[str, Any]):
        self.config, self._given, self.lines = config, given, list[str]()

    def take(self, name: str, value: Any, why: str) -> None:
        if name not in self._given:
            self.config = with_changes(self.config, [(name, value)])
            self.lines.append(f"{as_option(name, value)}: {why}")


def _begun(workdir: Path) -> Config | None:
    """The settings of the run there, once it has a checkpoint."""
    path, steps = workdir / RUN_CONFIG, workdir / FOLDER
    if not path.is_file() or not steps.is_dir() or not any(each.name.isdecimal() for each in steps.iterdir()):
        return None
    return load_config(workdir)


def _take_frames(taken: _Taken) -> None:
    """The number of classes, the sizes, and the offsets."""
    data = taken.config.data
    classes = with_num_classes(taken.config).model.num_classes
    taken.take("model.num_classes", classes, "the data name so many")
    videos = read_split(data.root, data.train_split, layout=data.layout)
    sizes = sampled_sizes(videos)
    if not sizes:
        raise InputError(data.root, "has no frame that can be read", "python -m cffm_jax.data.check ROOT says more")
    usual, _ = Counter(sizes).most_common(1)[0]
    small = min(usual) <= min(_BOX) and max(usual) <= max(_BOX)
    why = f"most frames are {usual[0]}x{usual[1]} (height x width)" + ("" if small else ", and the papers' fit 480x853")
    taken.take("data.frame_size", usual if small else fitted_size(*usual, _BOX), why)
    shown = [fitted_size(*size, taken.config.data.frame_size) for size in sizes]
    crop = tuple(max(32, min(*sides, min(_BOX)) // 32 * 32) for sides in zip(*shown, strict=True))
    taken.take("data.crop", crop, "the largest multiples of 32 that all of the frames looked at have, to 480")
    length, count = int(statistics.median(len(video.frames) for video in videos)), len(data.offsets)
    longest = max(count, min(_LONGEST, length - 1))
    offsets = tuple(int(longest * (count - i) / count + 0.5) for i in range(count))
    taken.take("data.offsets", offsets, f"half of the videos have {length} frames or more")


def _take_course(taken: _Taken) -> None:
    """The batch, the steps, the rate, and how often is evaluated, saved and logged."""
    data = taken.config.data
    labelled = sum(len(video.targets) for video in read_split(data.root, data.train_split, layout=data.layout))
    batch = min(_BATCH, 2 ** (labelled.bit_length() - 1))
    taken.take("train.batch_size", batch, "as in the papers" if batch == _BATCH else f"{labelled} frames have labels")
    batch = max(1, taken.config.train.batch_size)  # One of less is refused later.
    steps = min(_MOST, max(_FEWEST, math.ceil(_PASSES * labelled / batch / 100) * 100))
    times = f"each of {labelled} labelled frames is a target about {steps * batch / labelled:.0f} times"
    taken.take("train.steps", steps, times)
    steps = taken.config.train.steps
    taken.take("optim.warmup_steps", min(1500, steps // 20), "a twentieth of the steps, to the papers' 1500")
    rate = float(f"{_RATE * math.sqrt(batch / _BATCH):.2g}")
    taken.take("optim.rate", rate, f"the papers' {_RATE:g} for {_BATCH} clips, by the root of the batch")
    every = max(1, steps // 10)
    taken.take("train.eval_every", every, "a tenth of the steps")
    taken.take("train.checkpoint_every", min(2000, every), "with the evaluations, or every 2000 steps")
    taken.take("train.log_every", max(1, min(50, steps // 100)), "a hundredth of the steps, to 50")
