"""Masks as files: indexed PNGs in a folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cffm_jax.data.image_files import FileName
from cffm_jax.inference.whole_videos import Chunk
from cffm_jax.runtime import cluster
from cffm_jax.runtime.atomic import require_new_folder
from cffm_jax.runtime.shared_folder import SharedFolder

WHAT = "the predictions"


def frame_file(frame: FileName) -> str:
    """The name of a frame's mask."""
    return f"{os.path.splitext(os.path.basename(frame))[0]}.png"


class PredictionWriter:
    """Writes each chunk's masks as indexed PNGs, 0..K-1 with the classes' colours: ``<folder>/<video>/<frame>.png``.

    A context manager: the folder appears at its end, whole, and not after an error. All processes write into it.
    """

    def __init__(self, folder: str | Path, colours: np.ndarray):
        """``colours`` u8[256,3], as of ``classes.palette``."""
        if cluster.first():
            require_new_folder(folder, WHAT)
        self._made = SharedFolder(folder)
        self._palette = colours.tobytes()

    def __enter__(self) -> PredictionWriter:
        self._made.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._made.__exit__(*error)

    def __call__(self, chunk: Chunk) -> None:
        with self._made.writing() as root:
            folder = root / chunk.video.name
            folder.mkdir(exist_ok=True)
            for i, mask in enumerate(chunk.own):
                image = Image.fromarray(mask)
                image.putpalette(self._palette)
                image.save(folder / frame_file(chunk.video.frames[chunk.start + i]))
