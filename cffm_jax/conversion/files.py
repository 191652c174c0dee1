"""Reading torch-layout state dicts without torch, and without running anything that a file holds."""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from cffm_jax.errors import InputError

_STORAGES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
_REMEDY = "give a .pth of torch >= 1.6, a .safetensors or an .npz with the weights"


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Arrays by key of a ``.pth``/``.pt`` (torch's zip format), ``.safetensors`` or ``.npz`` file; the format is told
    by its content.

    A checkpoint that wraps its weights as ``state_dict`` (or ``model``) beside other things is unwrapped.

    Raises:
      InputError: the file is missing, damaged or of another format.
    """
    return _unwrap(_read(Path(path)), Path(path))


def read_array(path: str | Path) -> np.ndarray:
    """The one array of a file: a tensor saved by itself, or alone in a dictionary.

    Raises:
      InputError: as ``read_state_dict``, or the file holds none or several.
    """
    loaded = _read(Path(path))
    if isinstance(loaded, Mapping):
        arrays = [value for value in loaded.values() if isinstance(value, np.ndarray)]
        loaded = arrays[0] if len(arrays) == 1 else None
    if not isinstance(loaded, np.ndarray):
        raise InputError(path, "holds no array, or several", "give a file with one array")
    return loaded


def _read(path: Path) -> Any:
    if not path.is_file():
        raise InputError(path, "no such file", _REMEDY)
    try:
        with path.open("rb") as file:
            head = file.read(16)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if any(name.endswith(".npy") for name in archive.namelist()):
                    with np.load(path, allow_pickle=False) as arrays:
                        return {key: arrays[key] for key in arrays.files}
                return _read_zip(archive)
        if head[8:9] == b"{":
            return safetensors.numpy.load_file(path)
    except Exception as error:  # A damaged file makes the readers fail in more ways than can be listed.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(path, f"cannot be read ({reason})", _REMEDY) from error
    raise InputError(path, "is no file of weights that is known here", _REMEDY)


def _unwrap(loaded: Any, path: Path) -> dict[str, np.ndarray]:
    for key in ("state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not any(isinstance(value, np.ndarray) for value in loaded.values()):
        raise InputError(path, "holds no state dict", _REMEDY)
    return {str(key): value for key, value in loaded.items() if isinstance(value, np.ndarray)}


class _Inert:
    """Stands for anything that is not weights: made from any arguments, does nothing, imports nothing."""

    def __init__(self, *_: Any, **__: Any):
        pass

    def __setstate__(self, _: Any) -> None:
        pass

    def __setitem__(self, *_: Any) -> None:
        pass

    def append(self, *_: Any) -> None:
        pass

    def extend(self, *_: Any) -> None:
        pass


class _Storage(str):
    """Name of a torch storage type."""


def _rebuild_tensor(
    storage: np.ndarray, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> np.ndarray:
    if math.prod(shape) > storage.size:
        raise ValueError("a tensor is larger than its storage")
    count = 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True)) if math.prod(shape) else 0
    if offset < 0 or min(stride, default=0) < 0 or min(shape, default=0) < 0 or offset + count > storage.size:
        raise ValueError("a tensor reaches beyond its storage")
    view = storage[offset : offset + count]
    strides = tuple(s * storage.itemsize for s in stride)
    return np.lib.stride_tricks.as_strided(view, shape, strides, writeable=False).copy()


def _rebuild_parameter(data: np.ndarray, *_: Any) -> np.ndarray:
    return data


class _Unpickler(pickle.Unpickler):
    """Knows tensors and plain containers; every other class becomes an inert stand-in."""

    def __init__(self, file: io.BytesIO, archive: zipfile.ZipFile, prefix: str):
        super().__init__(file)
        self._archive, self._prefix = archive, prefix

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return _Storage(name)
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
        }
        return known.get((module, name), _Inert)

    def persistent_load(self, pid: Any) -> np.ndarray:
        kind, storage, key, _, count = pid
        if kind != "storage" or not isinstance(storage, _Storage):
            raise pickle.UnpicklingError(f"unknown reference {kind!r}")
        data = self._archive.read(f"{self._prefix}data/{key}")
        return np.frombuffer(data, _STORAGES[storage], count)


def _read_zip(archive: zipfile.ZipFile) -> Any:
    pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
    if len(pickles) != 1:
        raise ValueError("a zip file, but not torch's")
    prefix = pickles[0].removesuffix("data.pkl")
    return _Unpickler(io.BytesIO(archive.read(pickles[0])), archive, prefix).load()
