"""Masks of every frame of a split in a zip, for the server of a challenge: ``<video>/<frame>.png``.

What VSPW's server wants is written nowhere that could be found. They lie as its own masks do and by
default hold the same values (class k is k + 1); ``classes`` gives the class indices.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cffm_jax.data.decode import upright_size
from cffm_jax.data.layouts.read import source_of
from cffm_jax.data.layouts.records import read_one
from cffm_jax.data.layouts.video import Coding, Video
from cffm_jax.errors import InputError
from cffm_jax.evaluation.mask_folder import (
    MaskWriter,
    frame_file,
    palettes_to_compare,
    png,
    prediction_paths,
    read_prediction,
)
from cffm_jax.runtime.atomic import require_writable, whole_file
from cffm_jax.runtime.progress import Progress
from cffm_jax.runtime.shared_folder import SharedFolder, when_all_have_written

if TYPE_CHECKING:
    from cffm_jax.evaluation.options import EvalOptions

_DATE = (1980, 1, 1, 0, 0, 0)
"""The same masks are the same bytes."""
_THREADS = 4


def require_submission(options: EvalOptions, videos: Sequence[Video]) -> None:
    """InputError, before the work, for a submission that cannot be made, or cannot be written."""
    path, data = Path(options.submission), options.settings.data
    if path.suffix != ".zip":
        raise InputError(path, "is no .zip", "name a new .zip with --submission")
    if path.exists():
        raise InputError(path, "is there already", "name a new .zip with --submission")
    require_writable(path)
    problem = source_of(data.layout, data.root).submission_problem
    if problem:
        raise InputError("--submission", problem, "write masks with --save-predictions")
    value_table(videos[0].coding, options.settings.model.num_classes, options.submission_values)


def value_table(coding: Coding, num_classes: int, values: str) -> np.ndarray:
    """u8[256], what a class is written as: itself, or with "stored" the dataset's byte for it, the
    lowest if there are several. InputError if there is none."""
    table = np.arange(256, dtype=np.uint8)
    if values == "stored":
        for k in range(num_classes):
            byte = coding.byte_of(k)
            if byte is None:
                problem = f"the dataset's masks have no value for class {k} ({coding.words(num_classes)})"
                raise InputError("--submission-values", problem, "give classes")
            table[k] = byte
    return table


class SubmissionWriter(MaskWriter):
    """Makes a zip of each chunk's masks, which is there whole at the end. All processes write masks
    beside it, the first puts them together."""

    def __init__(
        self, path: str | Path, videos: Sequence[Video], num_classes: int, values: str, check: Callable[[], None]
    ):
        """``values`` as of ``value_table``; what ``check`` raises ends the writing of the zip."""
        self._path, self._videos, self._check = Path(path), videos, check
        table = value_table(videos[0].coding, num_classes, values)
        made = SharedFolder(self._path.with_name(f"{self._path.name}.masks"), keep=False)
        super().__init__(made, lambda mask: png(table[mask]))

    def __exit__(self, *error: Any) -> None:
        try:
            if error[0] is None:
                when_all_have_written(self._write)
        finally:
            self._made.__exit__(*error)

    def _write(self) -> None:
        names = sorted(f"{video.name}/{frame_file(frame)}" for video in self._videos for frame in video.frames)
        with self._made.writing() as root:
            masks = ((name, (root / name).read_bytes()) for name in names)
            _write_zip(self._path, masks, len(names), self._check)


def submit_predictions(
    path: str | Path,
    videos: Sequence[Video],
    predictions: str | Path,
    num_classes: int,
    values: str,
    check: Callable[[], None],
) -> None:
    """A zip of masks 0..K-1 that any program wrote as ``<predictions>/<video>/<frame>.png``; the
    rest as of ``SubmissionWriter``.

    Raises:
      InputError: a mask is missing, unreadable, not of the frame's size, or holds what is no class.
    """
    root = Path(predictions)
    if not root.is_dir():
        raise InputError(root, "no such folder", "give the folder that holds <video>/<frame>.png")
    # All files are looked for before the first is read.
    jobs = [(video, prediction_paths(video, root / video.name)) for video in sorted(videos, key=lambda v: v.name)]
    table, palettes = value_table(videos[0].coding, num_classes, values), palettes_to_compare(videos)

    def encoded(pair: tuple[str, Path]) -> tuple[str, bytes]:
        frame, mask_path = pair
        mask = read_prediction(mask_path, num_classes, videos[0].coding.colours, palettes)
        size, _ = upright_size(frame, read_one(frame))
        if mask.shape != size:
            problem = f"is {mask.shape[1]}x{mask.shape[0]}, its frame {size[1]}x{size[0]}"
            raise InputError(mask_path, problem, "write it at the frame's size")
        return mask_path.name, png(table[mask])

    def masks(pool: ThreadPoolExecutor) -> Iterator[tuple[str, bytes]]:
        for video, paths in jobs:
            for name, data in sorted(pool.map(encoded, zip(video.frames, paths, strict=True))):
                yield f"{video.name}/{name}", data

    with ThreadPoolExecutor(_THREADS) as pool:
        _write_zip(Path(path), masks(pool), sum(len(paths) for _, paths in jobs), check)


def print_written(path: str, videos: Sequence[Video]) -> None:
    """Prints where the submission of these videos is."""
    frames = sum(len(video.frames) for video in videos)
    print(f"submission written to {path}: {frames} masks of {len(videos)} videos")


def _write_zip(path: Path, masks: Iterable[tuple[str, bytes]], count: int, check: Callable[[], None]) -> None:
    bar = Progress(masks, desc="zip", unit="mask", total=count, leave=False)
    with whole_file(path) as partial, bar, zipfile.ZipFile(partial, "w") as file:
        for name, data in bar:
            check()
            entry = zipfile.ZipInfo(name, _DATE)
            entry.create_system, entry.external_attr = 3, 0o644 << 16  # Unix; readable by all.
            file.writestr(entry, data)  # Not packed again: PNGs are.
