"""Weight files without torch: safetensors, and a zip for ``torch.load(weights_only=True)``.

A file is written whole or not at all, and the same arrays give the same bytes: the library's writer
of safetensors puts metadata in another order each time, and wants all arrays in memory.
"""

from __future__ import annotations

import functools
import json
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cffm_jax.errors import InputError
from cffm_jax.runtime.atomic import whole_file
from cffm_jax.weights.files.array_files import SAFETENSORS_TYPES
from cffm_jax.weights.files.stored_array import is_numeric
from cffm_jax.weights.files.torch_tensors import STORAGES

Entry = tuple[str, tuple[int, ...], np.dtype, Callable[[], np.ndarray]]
"""(key, shape, dtype, load) of an array that is read when it is written."""

Arrays = Mapping[str, np.ndarray] | Iterable[Entry]

ALIGNMENT = 64
"""Bytes; where torch starts the data of a storage, so that it can be mapped into memory."""

_STORAGES = {np.dtype(kind).name: name for name, kind in reversed(STORAGES.items()) if is_numeric(np.dtype(kind))}
"""Types -> torch's storages of them, of several the first."""
_DATE = (1980, 1, 1, 0, 0, 0)
_HEADER = 30
_PADDING = struct.Struct("<HH")
"""Identifier and length of the field of a member's header that fills up to the alignment."""


def write_safetensors(path: str | Path, arrays: Arrays, metadata: Mapping[str, str] | None = None) -> None:
    """Arrays by key as a .safetensors.

    Args:
      path: of the file.
      arrays: by key; entries are read one at a time, wide types first, so that all are aligned.
      metadata: texts.

    Raises:
      InputError: it cannot be written, or a type is not one of the format's.
    """
    entries = sorted(_entries(arrays), key=lambda entry: -entry[2].itemsize)
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    names = {np.dtype(kind): name for name, kind in SAFETENSORS_TYPES.items()}
    end = 0
    for key, shape, dtype, _ in entries:
        name = names.get(dtype.newbyteorder("="))
        if name is None:
            raise InputError(path, f"{key} has the type {dtype}, which safetensors has not", "give arrays of numbers")
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[key] = {"dtype": name, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with whole_file(path) as partial, partial.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for entry in entries:
            file.write(_bytes(entry))


def write_torch(path: str | Path, arrays: Arrays, meta: Mapping[str, Any] | None = None) -> None:
    """``{"meta": meta, "state_dict": arrays}`` as torch (>= 1.6) saves it, tensors in order.

    Args:
      path: of the .pth.
      arrays: by key; entries are read one at a time.
      meta: plain values: str, int, float, bool, None, and lists, tuples and dictionaries of them.

    Raises:
      InputError: it cannot be written, or a type is not one of torch's.
    """
    entries = _entries(arrays)
    for key, _, dtype, _ in entries:
        if dtype.name not in _STORAGES:
            raise InputError(path, f"{key} has the type {dtype}, which torch has not", "write a .safetensors")
    with whole_file(path) as partial, zipfile.ZipFile(partial, "w") as archive:
        _add(archive, "data.pkl", b"\x80\x02" + _checkpoint(entries, dict(meta or {})) + b".")
        _add(archive, "byteorder", b"little")
        for i, entry in enumerate(entries):
            _add(archive, f"data/{i}", _bytes(entry))
        _add(archive, "version", b"3\n")


def _entries(arrays: Arrays) -> list[Entry]:
    if not isinstance(arrays, Mapping):
        return [(key, tuple(map(int, shape)), np.dtype(dtype), load) for key, shape, dtype, load in arrays]
    named: Mapping[str, np.ndarray] = arrays  # pyrefly: ignore[bad-assignment]  # No Mapping has entries as keys.
    return [(key, array.shape, array.dtype, functools.partial(np.asarray, array)) for key, array in named.items()]


def _bytes(entry: Entry) -> memoryview:
    """An array's bytes, the last axis fastest, little-endian."""
    key, shape, dtype, load = entry
    array = load()
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{key} is {array.dtype}{list(array.shape)}, not {dtype}{list(shape)} as announced")
    array = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
    return array.reshape(-1).view(np.uint8).data


def _checkpoint(entries: list[Entry], meta: dict[str, Any]) -> bytes:
    """Opcodes of the whole object: Python's for plain parts, between them the names of torch's."""
    items = b"".join(_plain(key) + _tensor(str(i), shape, dtype) for i, (key, shape, dtype, _) in enumerate(entries))
    state_dict = _call("collections", "OrderedDict", b")") + b"(" + items + b"u"
    return b"}(" + _plain("meta") + _plain(meta) + _plain("state_dict") + state_dict + b"u"


def _tensor(key: str, shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    count, stride = 1, []
    for n in reversed(shape):
        stride.insert(0, count)
        count *= max(n, 1)
    elements = 0 if 0 in shape else count
    storage = b"(" + _plain("storage") + _name("torch", _STORAGES[dtype.name])
    storage += _plain(key) + _plain("cpu") + _plain(elements) + b"tQ"
    view = _plain(0) + _plain(shape) + _plain(tuple(stride)) + _plain(False)
    hooks = _call("collections", "OrderedDict", b")")
    return _call("torch._utils", "_rebuild_tensor_v2", b"(" + storage + view + hooks + b"t")


def _plain(value: Any) -> bytes:
    """Python's opcodes without a file's frame; each part has its own memo, none reads another's."""
    return pickle.dumps(value, 2)[2:-1]


def _name(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _call(module: str, name: str, arguments: bytes) -> bytes:
    return _name(module, name) + arguments + b"R"


def _add(archive: zipfile.ZipFile, name: str, data: Any) -> None:
    """A stored member without a date whose data starts at a multiple of the alignment."""
    member = zipfile.ZipInfo(f"archive/{name}", _DATE)
    member.create_system = 0
    start = archive.start_dir + _HEADER + len(member.filename) + _PADDING.size
    fill = -start % ALIGNMENT
    member.extra = _PADDING.pack(0x4246, fill) + b"Z" * fill
    archive.writestr(member, data)
