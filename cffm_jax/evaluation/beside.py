"""Sources of masks beside a checkpoint's, or beside predictions: masks on disk, or other weights, a
row each in tables, report and pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cffm_jax.config import Config
from cffm_jax.data.layouts.video import Video
from cffm_jax.drawing.masks import INPUT, TRUTH
from cffm_jax.errors import InputError
from cffm_jax.evaluation.mask_folder import prediction_paths
from cffm_jax.rules import About, local_path, values, with_changes

if TYPE_CHECKING:
    from cffm_jax.inference.whole_videos import Chunk

Watcher = Callable[["Chunk"], None]
OPTION = "--beside"
RESERVED = (INPUT, TRUTH, "file")
"""What no source can be called: the pictures' own rows, and a word of NumPy's archives."""
_RENAME = "name each: --beside NAME=PATH"
_SAME = ("data.layout", "data.eval_split", "data.channels", "model.num_classes", "eval.max_videos", "eval.short_videos")
"""Settings in which all sources have to agree, beside the data's root: else their figures are of
different things."""


def named_sources(words: Sequence[str]) -> dict[str, str]:
    """The paths of the sources by their names, in their order, of ``NAME=PATH`` or ``PATH``, which
    is named as its last part.

    Raises:
      InputError: two have one name, or a path is an address.
    """
    sources: dict[str, str] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not equals or os.path.lexists(word):
            name, path = os.path.basename(os.path.abspath(word)), word
        if not name or not path:
            raise InputError(OPTION, f"is {word}", _RENAME)
        if name in sources:
            raise InputError(OPTION, f"names two sources {name!r}", _RENAME)
        sources[name] = local_path(OPTION, path, About(path=True, hub=True))
    return sources


def require_new_names(names: Collection[str], rows: Collection[str]) -> None:
    """InputError for a name of a source that a row has already, or that the pictures give to what
    is none."""
    alike = next((name for name in names if name in {*rows, *RESERVED}), None)
    if alike is not None:
        raise InputError(OPTION, f"names a source {alike!r}, as a row is called already", _RENAME)


def require_masks(path: str, videos: Sequence[Video]) -> None:
    """InputError unless the folder holds a mask of each frame that has a label."""
    root = Path(path)
    if not any((root / video.name).is_dir() for video in videos):
        problem = "holds no masks of these videos" if root.exists() else "no such file or folder"
        raise InputError(root, problem, "give a folder of <video>/<frame>.png, or, with --checkpoint, weights")
    for video in videos:
        prediction_paths(video, root / video.name)


def on_the_same(stored: Config, asked: Config) -> Config:
    """The settings of other weights, with the data, the size of its frames and the rules of an
    evaluation that is asked for."""
    names = ("data.root", "data.layout", "data.eval_split", "data.frame_size")
    changes = [(name, value) for name, value in values(asked).items() if name in names or name.startswith("eval.")]
    return with_changes(stored, changes)


def require_same_data(config: Config, path: str, first: Config, first_path: str) -> None:
    """InputError if two sources are of other videos or classes, or are counted by other rules."""
    has, wants = values(config), values(first)
    differ = [name for name in _SAME if has[name] != wants[name]]
    if os.path.realpath(config.data.root) != os.path.realpath(first.data.root):
        differ.insert(0, "data.root")
    if differ:
        problem = f"is evaluated with {differ[0]} {has[differ[0]]!r}, {first_path} with {wants[differ[0]]!r}"
        raise InputError(path, problem, "name the data for all, with --config or the option, or compare others")


def renamed(watch: Watcher, names: Mapping[str, str]) -> Watcher:
    """A watcher of an evaluation that sees some rows by other names."""
    return lambda chunk: watch(chunk._replace(masks={names.get(row, row): m for row, m in chunk.masks.items()}))
