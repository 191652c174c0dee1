"""Lines at the start of a training: what is left out, and what its settings do not change."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

from cffm_jax.checkpoints.compatible import as_option
from cffm_jax.config import SETTINGS, Config, DataConfig
from cffm_jax.data import decode
from cffm_jax.data.augment import fitted_size
from cffm_jax.data.image_files import UnreadableFile
from cffm_jax.data.labels.label_sample import require_palettes_agree, sample_notes
from cffm_jax.data.layouts.classes import Classes, numbered_classes
from cffm_jax.data.layouts.names import passed_over_in_words
from cffm_jax.data.layouts.records import read_one
from cffm_jax.data.layouts.video import Video
from cffm_jax.models.methods.method import Method
from cffm_jax.rules import values


def unread_notes(config: Config, model: Method) -> tuple[str, ...]:
    """Lines on the settings that were changed, and that this method or loss does not read."""
    usual, given, read = values(Config()), values(config), model.settings_read
    changed = [name for name in given if given[name] != usual[name] and not SETTINGS[name].set_by_study]
    of_others = [
        name
        for name in changed
        if SETTINGS[name].part == "method" and not {name, f"{name.partition('.')[0]}."} & {*read}
    ]
    notes = [f"without effect on {config.model.name}: {', '.join(of_others)}"] if of_others else []
    for name in changed:
        needed = SETTINGS[name].reads_only_with
        if needed and not any(given[other] for other in needed):
            value = "not given" if given[needed[0]] == "" else "0"
            notes.append(f"without effect: {name}, as {' and '.join(needed)} {'are' if needed[1:] else 'is'} {value}")
        other, value = SETTINGS[name].reads_only_if or (name, given[name])
        if given[other] != value:
            notes.append(f"without effect: {name}, with {as_option(other, given[other])}")
    return tuple(notes)


def dataset_notes(
    config: Config, classes: Classes | None, videos: Sequence[Video], held_out: Sequence[Video]
) -> tuple[str, ...]:
    """Lines about what is left out of the dataset's folders, and missing in its labels.

    Raises:
      InputError: a mask that was looked at cannot be used, or contradicts another.
    """
    require_palettes_agree((*videos, *held_out))
    num_classes = config.model.num_classes
    others = list(dict.fromkeys(path for video in (*videos, *held_out) for path in video.passed_over))
    names = (classes or numbered_classes(num_classes)).names
    left_out = [f"data: {passed_over_in_words(others)}"] if others else []
    padded = padding_notes(config.data, sampled_sizes(videos))
    return (*left_out, *padded, *sample_notes(videos, num_classes, names, held_out))


def sampled_sizes(videos: Sequence[Video], most: int = 16) -> list[tuple[int, int]]:
    """Height and width of the first frame of some videos, as it is shown; those that cannot be read
    are left out: training says, or tolerates, that."""
    sizes = []
    for video in videos[:: max(1, -(-len(videos) // most))]:
        with contextlib.suppress(UnreadableFile):
            sizes.append(decode.upright_size(video.frames[0], read_one(video.frames[0]))[0])
    return sizes


def padding_notes(data: DataConfig, sizes: Sequence[tuple[int, int]]) -> tuple[str, ...]:
    """A line if frames of these sizes (h, w), fitted to ``data.frame_size``, are smaller than a
    crop."""
    fitted = [fitted_size(*size, data.frame_size) for size in sizes]
    smaller = [size for size in fitted if size[0] < data.crop[0] or size[1] < data.crop[1]]
    if not smaller:
        return ()
    area = math.prod(data.crop)
    padding = 1 - sum(math.prod(map(min, size, data.crop)) / area for size in smaller) / len(smaller)
    (height, width), (rows, columns) = smaller[0], data.crop
    return (
        f"data: frames are {height}x{width} (height x width) where they fit data.frame_size, "
        f"a crop is {rows}x{columns}: about {100 * padding:.0f} % of it is padding, which counts as ignored; "
        "give a smaller --data.crop, or a larger --data.frame-size",
    )
