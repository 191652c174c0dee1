"""torch's two file formats, the zip of torch >= 1.6 and the older: described, and read later."""

from __future__ import annotations

import functools
import io
import zipfile
from collections import Counter
from collections.abc import Callable
from pickle import UnpicklingError
from typing import Any

import numpy as np

from cffm_jax.errors import InputError
from cffm_jax.weights.files import unpickle
from cffm_jax.weights.files.stored_array import (
    FLOOR_BYTES,
    BinaryFile,
    CutOff,
    Longer,
    StoredArray,
    from_bytes,
    reading,
)
from cffm_jax.weights.files.torch_tensors import Storage, Tensor, make, storage_of
from cffm_jax.weights.files.unpickle import Pairs

SAVE_WEIGHTS = "save model.state_dict() with torch.save and give that"

# https://github.com/pytorch/pytorch/blob/main/torch/serialization.py
MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001

MAX_REUSE = 8
"""Bytes of arrays for a byte of storage: a few tensors of a model may share one."""


class TorchFile:
    """A file's tensors as arrays, and its ``value``: plain, ``Pairs``, ``Tensor`` or ``Inert``."""

    def __init__(self, value: Any, format: str, where: object, read: Callable[[str], np.ndarray]):
        """``read`` gives the bytes u8[n] of a storage, an own copy."""
        self.value, self.format = value, format
        self._where, self._read = where, read
        self._users: Counter[str] = Counter()
        self._kept: dict[str, np.ndarray] = {}
        self._stored = self._described = 0

    def array(self, tensor: Tensor) -> StoredArray:
        """InputError if tensors share storage so much that arrays would be out of proportion."""
        array = StoredArray(tensor.shape, tensor.dtype, functools.partial(self._load, tensor))
        self._stored += 0 if self._users[tensor.storage.key] else tensor.storage.nbytes
        self._users[tensor.storage.key] += 1
        self._described += array.nbytes
        if self._described > max(FLOOR_BYTES, MAX_REUSE * self._stored):
            problem = f"its tensors share storage: {self._stored} bytes would become {self._described}"
            raise InputError(self._where, problem, SAVE_WEIGHTS)
        return array

    def _load(self, tensor: Tensor) -> np.ndarray:
        key = tensor.storage.key
        with reading(self._where):
            data = self._kept.pop(key) if key in self._kept else self._read(key)
            self._users[key] -= 1
            shared = self._users[key] > 0
            if shared:  # Kept until the last tensor that needs it: never read once for each of them.
                self._kept[key] = data
            start = tensor.storage.start * tensor.storage.dtype.itemsize + tensor.offset * tensor.dtype.itemsize
            view = data[start : start + tensor.span * tensor.dtype.itemsize]
            if not tensor.contiguous:
                strides = tuple(s * tensor.dtype.itemsize for s in tensor.stride)
                elements = view.view(np.dtype((np.void, tensor.dtype.itemsize)))
                view = np.lib.stride_tricks.as_strided(elements, tensor.shape, strides).copy().reshape(-1)
                view = view.view(np.uint8)
            elif shared or len(view) != len(data):
                view = view.copy()
            return from_bytes(view, tensor.dtype, tensor.shape)


def read_zip(archive: zipfile.ZipFile, where: object) -> TorchFile | None:
    """torch's zip format; None if the archive is another's.

    Raises:
      InputError: it is TorchScript, or its bytes are in an order that is not read here.
      UnpicklingError, ValueError, KeyError: it is damaged.
    """
    members = {member.filename: member for member in archive.infolist()}
    pickles = [name for name in members if name.split("/")[-1] == "data.pkl" and name.count("/") <= 1]
    if len(pickles) != 1:
        return None
    prefix = pickles[0].removesuffix("data.pkl")
    if f"{prefix}constants.pkl" in members or any(name.startswith(f"{prefix}code/") for name in members):
        raise InputError(where, "is a TorchScript program, not weights", SAVE_WEIGHTS)
    if f"{prefix}byteorder" in members and archive.open(f"{prefix}byteorder").read(8).strip() != b"little":
        raise InputError(where, "was written on a machine of another byte order", "save it again on a usual one")
    if members[pickles[0]].file_size > unpickle.MAX_BYTES:
        raise UnpicklingError(f"its pickle is larger than {unpickle.MAX_BYTES} bytes")

    def reference(pid: Any) -> Any:
        storage = storage_of(pid)
        if isinstance(storage, Storage):
            member = members.get(f"{prefix}data/{storage.key}")
            if member is None or member.file_size != storage.nbytes:
                raise UnpicklingError(f"its storage {storage.key} is missing or has another size")
        return storage

    def read(key: str) -> np.ndarray:
        data = np.frombuffer(archive.read(f"{prefix}data/{key}"), np.uint8)
        return data.copy()

    data = archive.read(pickles[0])
    return TorchFile(unpickle.interpret(io.BytesIO(data), len(data), make, reference), "torch (zip)", where, read)


def read_legacy(file: BinaryFile, size: int, where: object) -> TorchFile:
    """The format of torch < 1.6: pickles one after the other, then the storages.

    Raises:
      InputError: its bytes are in an order that is not read here.
      CutOff: its end is missing.
      Longer: more is behind its end, as where two were saved into one file.
      UnpicklingError, ValueError: it is damaged.
    """
    storages: dict[str, Storage] = {}

    def load(**functions: Any) -> Any:
        try:
            return unpickle.interpret(file, size - file.tell(), **functions)
        except (UnpicklingError, ValueError, EOFError) as error:
            if file.tell() < size:
                raise
            raise CutOff(size, "which end within the description of its arrays") from error

    def reference(pid: Any) -> Any:
        storage = storage_of(pid)
        if isinstance(storage, Storage):
            view = pid[5] if len(pid) > 5 else None
            base = Storage(storage.key, storage.dtype, pid[4])
            if storages.setdefault(base.key, base) != base:
                raise UnpicklingError(f"its storage {base.key} has two sizes")
            if view is not None:
                _, start, count = view
                if type(start) is not int or type(count) is not int or not 0 <= start <= start + count <= base.count:
                    raise UnpicklingError("a view reaches beyond its storage")
                storage = Storage(base.key, base.dtype, count, start)
        return storage

    if load() != MAGIC_NUMBER:
        raise UnpicklingError("it does not start as torch's files do")
    if load() != _PROTOCOL:
        raise UnpicklingError("it is of a protocol that torch never wrote")
    system = load()
    if not isinstance(system, Pairs) or system.named().get("little_endian") is not True:
        raise InputError(where, "was written on a machine of another byte order", "save it again on a usual one")
    value = load(make=make, reference=reference)
    places = _places(file, size, load(), storages)

    def read(key: str) -> np.ndarray:
        data = np.empty(storages[key].nbytes, np.uint8)
        file.seek(places[key])
        if file.readinto(data.data) != len(data):
            raise EOFError("it has become shorter")
        return data

    return TorchFile(value, "torch (legacy)", where, read)


def _places(file: BinaryFile, size: int, keys: Any, storages: dict[str, Storage]) -> dict[str, int]:
    """Where storages start: they follow in the order of ``keys``, each behind its element count."""
    places: dict[str, int] = {}
    if type(keys) is not list or not all(type(key) is str for key in keys) or set(keys) != set(storages):
        raise UnpicklingError("its list of storages is damaged")
    whole = file.tell() + sum(8 + storages[key].nbytes for key in keys)
    if size < whole:
        raise CutOff(size, f"{whole:,} should be")
    if size > whole:
        raise Longer(size, whole)
    for key in keys:
        count = int.from_bytes(file.read(8), "little")
        places[key] = file.tell()
        end = places[key] + storages[key].nbytes
        if end > size or count != storages[key].count:
            raise UnpicklingError(f"its storage {key} has another size")
        file.seek(end)
    if len(places) != len(keys):
        raise UnpicklingError("its list of storages is damaged")
    return places
