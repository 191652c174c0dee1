"""The formats that hold nothing but arrays: safetensors and npz."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import warnings
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from cffm_jax.weights.files.detect import MAX_HEADER
from cffm_jax.weights.files.stored_array import (
    MAX_BYTES,
    BinaryFile,
    CutOff,
    Longer,
    StoredArray,
    check_shape,
    from_bytes,
    printable,
    reading,
)

SAFETENSORS_TYPES = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "U16": np.uint16,
    "I16": np.int16,
    "U32": np.uint32,
    "I32": np.int32,
    "U64": np.uint64,
    "I64": np.int64,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F32": np.float32,
    "F64": np.float64,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    "C64": np.complex64,
}


@dataclasses.dataclass(frozen=True)
class ArrayFile:
    """Contents of a file of arrays."""

    format: str
    arrays: dict[str, StoredArray]
    metadata: dict[str, Any]
    ignored: tuple[str, ...] = ()


def read_safetensors(file: BinaryFile, size: int, path: Path) -> ArrayFile:
    """The library reads and checks the header; arrays follow it without gaps, in the order of their
    offsets, and are read here: the library's numpy has no float8, and a mapped file that is cut off
    meanwhile ends the process.

    Raises:
      CutOff: its arrays end beyond it.
      Longer: something is behind them.
      SafetensorError, ValueError: it is damaged.
    """
    start = 8 + int.from_bytes(file.read(8), "little")
    if start > MAX_HEADER:
        raise ValueError(f"its header is larger than {MAX_HEADER} bytes")
    whole = start + _end(file.read(start - 8))
    if size < whole <= start + MAX_BYTES:
        raise CutOff(size, f"{whole:,} should be")
    if start < whole < size:
        raise Longer(size, whole)
    arrays = {}
    with safetensors.safe_open(path, framework="np") as described:
        metadata = dict(sorted((described.metadata() or {}).items()))  # The library draws their order.
        for key in described.offset_keys():
            entry = described.get_slice(key)
            if entry.get_dtype() not in SAFETENSORS_TYPES:
                raise ValueError(f"{printable(key)} has the type {entry.get_dtype()}")
            shape, dtype = tuple(entry.get_shape()), np.dtype(SAFETENSORS_TYPES[entry.get_dtype()])
            check_shape(shape)
            arrays[key] = StoredArray(shape, dtype, functools.partial(_load, file, start, shape, dtype, path))
            start += arrays[key].nbytes
    if start != size:
        raise ValueError("its arrays do not fill it")
    return ArrayFile("safetensors", arrays, metadata)


def _end(header: bytes) -> int:
    """Where the last array ends, from the header's end on, before anything else is checked; 0 where
    that is not said, which the library tells."""
    try:
        entries = json.loads(header).values()
        return int(max((entry["data_offsets"][1] for entry in entries if "data_offsets" in entry), default=0))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return 0


def _load(file: BinaryFile, start: int, shape: tuple[int, ...], dtype: np.dtype, where: object) -> np.ndarray:
    with reading(where):
        data = np.empty(dtype.itemsize * math.prod(shape), np.uint8)
        file.seek(start)
        if file.readinto(data.data) != len(data):
            raise EOFError("it has become shorter")
        return from_bytes(data, dtype, shape)


def read_npz(archive: zipfile.ZipFile, where: object) -> ArrayFile | None:
    """numpy's zip of arrays; None if none of its members is one.

    Raises:
      ValueError: an array's description is damaged, or it holds Python objects.
    """
    arrays, ignored = {}, []
    for member in archive.infolist():
        if not member.filename.endswith(".npy"):
            ignored.append(printable(member.filename))
            continue
        key = member.filename.removesuffix(".npy")
        with archive.open(member) as file:
            shape, dtype = _header(file)
            if dtype.hasobject:
                raise ValueError(f"{printable(key)} holds Python objects")
            array = StoredArray(shape, dtype.newbyteorder("="), functools.partial(_load_npy, archive, member, where))
            if file.tell() + array.nbytes != member.file_size:
                raise ValueError(f"{printable(key)} has another size than it says")
        arrays[key] = array
    return ArrayFile("npz", arrays, {}, tuple(ignored)) if arrays else None


def _header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    """(shape, dtype) of an .npy; the file is left at its data."""
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError("an array of structures")  # All that version 3 is for.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of files that Python 2 wrote.
        shape, _, dtype = readers[version](file)
    check_shape(shape)
    return shape, dtype


def _load_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: object) -> np.ndarray:
    with reading(where), archive.open(member) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # As above.
        array = np.asarray(np.lib.format.read_array(file, allow_pickle=False), order="C")
    if array.dtype == np.bool_:
        return from_bytes(array.reshape(-1).view(np.uint8), array.dtype, array.shape)
    return array.astype(array.dtype.newbyteorder("="), copy=False)
