"""Prototypes computed elsewhere, an array for each video: as the authors' code of CFFM++ keeps them
(``<folders>/<video>/centers.pt``, in a folder or in a zip), or as one .safetensors."""

from __future__ import annotations

import functools
import io
import weakref
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from cffm_jax.errors import InputError
from cffm_jax.weights.files import detect, zip_guard
from cffm_jax.weights.files.read import open_weights, read_array, read_torch, single_array
from cffm_jax.weights.files.stored_array import StoredArray, reading

NAME = "centers.pt"
"""The authors' file of a video's prototypes, in a folder of the video's name."""

MAX_BYTES = 16 << 20
"""Largest size of one video's file in a zip: a hundred times 100 prototypes of 256 channels."""

_REMEDY = f"name a folder or a zip that holds <video>/{NAME}, or a .safetensors with a key for each video"


class Centres(NamedTuple):
    """The array of one video."""

    where: Path
    """For messages: the file, or the member of the zip as if it were one."""
    load: Callable[[], np.ndarray]


def is_authors(path: str | Path) -> bool:
    """Whether it is a folder or a zip with prototypes as the authors' code keeps them."""
    path = Path(path)
    if path.is_dir():
        return any(path.glob(f"*/{NAME}"))
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith(f"/{NAME}") for name in archive.namelist())


def read_centres(path: str | Path) -> dict[str, StoredArray]:
    """The array of every video, by name in order, each of them read once to be described.

    Args:
      path: a folder ``<path>/<video>/centers.pt`` or a zip of it with any folders in front, each a
        torch file with one array, usually [P, 256]; or a .safetensors with a key a video.

    Raises:
      InputError: there are none, two of one video, or one is unreadable; ``load`` of a result too.
    """
    described = {}
    for video, centres in sorted(find_centres(path).items()):
        array = centres.load()
        described[video] = StoredArray(array.shape, array.dtype, centres.load)
    return described


def find_centres(path: str | Path) -> dict[str, Centres]:
    """Finds as ``read_centres`` without reading: video's name -> where and how to read it.

    Raises:
      InputError: there are none, or two are of one video.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.glob(f"*/{NAME}"))
        centres = {file.parent.name: Centres(file, functools.partial(read_array, file)) for file in files}
    elif path.is_file():
        with reading(path):
            centres = _find_in_file(path)
    else:
        raise InputError(path, "no such folder or file", _REMEDY)
    if not centres:
        raise InputError(path, f"holds no <video>/{NAME}", _REMEDY)
    return centres


def _find_in_file(path: Path) -> dict[str, Centres]:
    with path.open("rb") as file:
        kind = detect.recognise(file, path.stat().st_size, path)
    if kind == "safetensors":
        with open_weights(path) as weights:
            return {video: Centres(path, functools.partial(_load_key, path, video)) for video in weights.arrays}
    if kind != "zip":
        raise InputError(path, "is neither a folder, nor a zip, nor a .safetensors", _REMEDY)
    archive = _Archive(path)
    centres: dict[str, Centres] = {}
    for name in archive.names:
        place = PurePosixPath(name)
        video = place.parent.name
        if place.name != NAME or not video:
            continue
        if video in centres:
            raise InputError(path, f"holds {NAME} of video {video} twice", "name the prototypes of one network")
        centres[video] = Centres(path / name, functools.partial(archive.load, name))
    return centres


def _load_key(path: Path, key: str) -> np.ndarray:
    with open_weights(path) as weights:
        return weights.arrays[key].load()


class _Archive:
    """A zip that stays open as long as an array of it may be read."""

    def __init__(self, path: Path):
        file = path.open("rb")
        weakref.finalize(self, file.close)
        self._path, self._zip = path, zip_guard.open_zip(file, path.stat().st_size)
        self.names = [member.filename for member in self._zip.infolist() if not member.is_dir()]

    def load(self, name: str) -> np.ndarray:
        where = self._path / name
        with reading(where):
            if self._zip.getinfo(name).file_size > MAX_BYTES:
                raise ValueError(f"it has more than {MAX_BYTES} bytes")
            data = self._zip.read(name)
            return single_array(read_torch(io.BytesIO(data), len(data), where), where).load()
