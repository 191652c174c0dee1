"""Masks as files: indexed PNGs in a folder."""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from cffm_jax.data.image_files import FileName, read_bytes
from cffm_jax.data.labels.mask_files import claims_of, read_values
from cffm_jax.data.layouts.video import Video, plain_coding
from cffm_jax.data.palettes import Palettes, values_in_use
from cffm_jax.errors import InputError
from cffm_jax.runtime import cluster
from cffm_jax.runtime.atomic import require_new_folder
from cffm_jax.runtime.shared_folder import SharedFolder

if TYPE_CHECKING:
    from cffm_jax.inference.whole_videos import Chunk

CONTENTS = "the predictions"


def frame_file(frame: FileName) -> str:
    """The name of a frame's mask."""
    return f"{os.path.splitext(os.path.basename(frame))[0]}.png"


def read_prediction(
    path: str | os.PathLike, num_classes: int, stated: bytes = b"", palettes: Palettes | None = None
) -> np.ndarray:
    """Class indices u8[H,W] of an indexed (or grey) PNG of at most 8 bits; else InputError.

    ``stated``: the classes' colours, of ``Coding.colours``. Programs that make PNGs smaller order
    palettes anew: where all colours in use are stated ones, they decide, else the indices do.
    ``palettes``: of the predictions read before, which must not contradict this one's.
    """
    mask = read_values(path, read_bytes(path))
    if (mask.turn or 1) != 1:
        raise InputError(path, f"is turned by EXIF (orientation {mask.turn})", "write it upright, without EXIF")
    if palettes is not None:
        palettes.require(path, claims_of(mask, plain_coding()))
    classes = mask.values
    if mask.palette is not None and stated:
        classes = _by_colour(path, classes, mask.palette, np.frombuffer(stated, np.uint8).reshape(-1, 3))
    if classes.size and classes.max() >= num_classes:
        remedy = f"write one 8-bit channel or a palette with the class index (0..{num_classes - 1}) of each pixel"
        raise InputError(path, f"holds the value {classes.max()}", remedy)
    return classes


def palettes_to_compare(videos: Sequence[Video]) -> Palettes | None:
    """For `read_prediction` of these videos; None where the classes' colours are stated."""
    return None if any(video.coding.colours for video in videos) else Palettes()


def _by_colour(path: FileName, values: np.ndarray, palette: np.ndarray, stated: np.ndarray) -> np.ndarray:
    """Class indices of a mask whose palette is made of the ``stated`` colours; else the values."""
    table, used = np.arange(256, dtype=np.uint8), [v for v in values_in_use(values) if v < len(palette)]
    if all(v < len(stated) and (palette[v] == stated[v]).all() for v in used):
        return values
    for value in used:
        classes = np.flatnonzero((stated == palette[value]).all(-1))
        if not len(classes):
            return values
        if len(classes) > 1:
            problem = (
                f"has a palette out of the stated order, in which the classes {classes[0]} and {classes[1]} are alike"
            )
            raise InputError(path, problem, "write the classes' indices with the stated colours, or in grey")
        table[value] = classes[0]
    return table[values]


def prediction_paths(video: Video, folder: Path) -> list[Path]:
    """The prediction of each frame that has a mask; InputError if one is missing."""
    if not folder.is_dir():
        raise InputError(folder, "no predictions of this video", "write <video>/<frame>.png for every video")
    names = set(os.listdir(folder))
    paths = [folder / frame_file(video.frames[i]) for i in video.targets]
    missing = [path for path in paths if path.name not in names]
    if missing:
        count = f" ({len(missing)} of {len(paths)} frames of the video)" if len(missing) > 1 else ""
        raise InputError(missing[0], f"prediction is missing{count}", "write <video>/<frame>.png for every frame")
    return paths


def png(mask: np.ndarray, palette: bytes = b"") -> bytes:
    """A mask's file: in grey, or with the colours of a palette."""
    image, file = Image.fromarray(mask), io.BytesIO()
    if palette:
        image.putpalette(palette)
    image.save(file, "PNG")
    return file.getvalue()


class MaskWriter:
    """Writes chunks' masks as ``encode`` gives their files: <folder>/<video>/<frame>.png.

    A context manager: at its end the folder appears whole, not after an error. All processes write.
    """

    def __init__(self, made: SharedFolder, encode: Callable[[np.ndarray], bytes]):
        self._made, self._encode = made, encode

    def __enter__(self) -> MaskWriter:
        self._made.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._made.__exit__(*error)

    def __call__(self, chunk: Chunk) -> None:
        with self._made.writing() as root:
            folder = root / chunk.video.name
            folder.mkdir(exist_ok=True)
            for i, mask in enumerate(chunk.predictions, chunk.start):
                (folder / frame_file(chunk.video.frames[i])).write_bytes(self._encode(mask))


class PredictionWriter(MaskWriter):
    """Writes masks 0..K-1 in class colours."""

    def __init__(self, folder: str | Path, colours: np.ndarray):
        """``colours`` u8[256,3], as of ``drawing.palette``."""
        if cluster.first():
            require_new_folder(folder, CONTENTS)
        super().__init__(SharedFolder(folder), functools.partial(png, palette=colours.tobytes()))
