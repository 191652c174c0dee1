"""Weight files written by hand, without torch, as the tests of the readers need them: also wrong and hostile ones."""

import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import safetensors.numpy

from cffm_jax.errors import InputError
from cffm_jax.runtime.command_line import run_command
from cffm_jax.weights.files.read import read_state_dict

ARRAYS = {
    "backbone.norm.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "backbone.norm.bias": np.array([1.5, -2.5], np.float32),
    "scalar": np.array(7.0, np.float32),
    "none": np.zeros((0, 3), np.float32),
    "count": np.array(3, np.int64),
}


# --- a small writer of torch's zip format -----------------------------------------------------------------------------


class Global(NamedTuple):
    """A class or function by name."""

    module: str
    name: str


class Call(NamedTuple):
    """``function(*arguments)``, as pickle's REDUCE."""

    function: Global
    arguments: tuple


class New(NamedTuple):
    """``cls.__new__(cls, *arguments)``."""

    cls: Global
    arguments: tuple


class Build(NamedTuple):
    """``instance`` whose state is set."""

    instance: Any
    state: Any


class Raw(NamedTuple):
    """Opcodes as they are."""

    code: bytes


class Reference(NamedTuple):
    """A persistent id, e.g. of a storage."""

    pid: tuple


def opcodes(value: Any) -> bytes:
    """Pickle protocol 2 of plain values and of the classes above."""
    match value:
        case Global(module, name):
            return f"c{module}\n{name}\n".encode()
        case Call(function, arguments):
            return opcodes(function) + opcodes(arguments) + b"R"
        case New(cls, arguments):
            return opcodes(cls) + opcodes(arguments) + b"\x81"
        case Build(instance, state):
            return opcodes(instance) + opcodes(state) + b"b"
        case Raw(code):
            return code
        case Reference(pid):
            return opcodes(pid) + b"Q"
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case tuple():
            return b"(" + b"".join(map(opcodes, value)) + b"t"
        case list():
            return b"](" + b"".join(map(opcodes, value)) + b"e"
        case dict():
            return b"}(" + b"".join(opcodes(item) for pair in value.items() for item in pair) + b"u"
    raise TypeError(type(value))


STORAGES = {
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}
LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
"""Torch's magic number and its protocol."""

REBUILD = Global("torch._utils", "_rebuild_tensor_v2")
ORDERED = Call(Global("collections", "OrderedDict"), ())


class TorchFile:
    """Collects storages while tensors are described, then writes the zip, or the format before it."""

    def __init__(self, legacy: bool = False):
        self.legacy = legacy
        self.storages: dict[str, bytes] = {}
        self.counts: dict[str, int] = {}

    def storage(self, data: np.ndarray, count: int | None = None, view: tuple | None = None) -> Reference:
        key = str(len(self.storages))
        self.storages[key], self.counts[key] = data.tobytes(), data.size
        kind = Global("torch", STORAGES[data.dtype.name])
        pid = ("storage", kind, key, "cpu", data.size if count is None else count)
        return Reference((*pid, view) if self.legacy else pid)

    def tensor(self, array: np.ndarray, **changes: Any) -> Call:
        """A contiguous tensor; ``changes`` replaces storage, offset, shape or stride."""
        stride = tuple(s // array.itemsize for s in np.ascontiguousarray(array).strides) if array.ndim else ()
        parts = {"storage": None, "offset": 0, "shape": array.shape, "stride": stride} | changes
        parts["storage"] = parts["storage"] or self.storage(array)
        return Call(REBUILD, (*parts.values(), False, ORDERED))

    def write(self, path: Path, value: Any, prefix: str = "archive/") -> Path:
        if self.legacy:
            return self._write_legacy(path, value)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"{prefix}data.pkl", b"\x80\x02" + opcodes(value) + b".")
            archive.writestr(f"{prefix}byteorder", "little")
            for key, data in self.storages.items():
                archive.writestr(f"{prefix}data/{key}", data)
            archive.writestr(f"{prefix}version", "3\n")
        return path

    def _write_legacy(self, path: Path, value: Any) -> Path:
        system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
        parts = [LEGACY_START, *(b"\x80\x02" + opcodes(part) + b"." for part in (system, value, list(self.storages)))]
        for key, data in self.storages.items():
            parts += [struct.pack("<q", self.counts[key]), data]
        path.write_bytes(b"".join(parts))
        return path


def torch_file(
    path: Path, arrays: dict[str, np.ndarray], wrap: Callable = lambda x: x, legacy: bool = False, **options: Any
) -> Path:
    file = TorchFile(legacy)
    return file.write(path, wrap({key: file.tensor(array) for key, array in arrays.items()}), **options)


def write_npz(path: Path) -> Path:
    np.savez(path, **ARRAYS)
    return path


def write_compressed(path: Path) -> Path:
    np.savez_compressed(path, **ARRAYS)
    return path


def write_safetensors(path: Path) -> Path:
    safetensors.numpy.save_file(ARRAYS, path)
    return path


WRITERS = {
    "weights.npz": write_npz,
    "compressed.npz": write_compressed,
    "weights.safetensors": write_safetensors,
    "weights.pth": lambda path: torch_file(path, ARRAYS),
    "legacy.pth": lambda path: torch_file(path, ARRAYS, legacy=True),
}
every_format = pytest.mark.parametrize("name", WRITERS)


def assert_same(loaded: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(sorted(loaded)) == list(sorted(expected))
    for key, array in expected.items():
        assert isinstance(loaded[key], np.ndarray) and loaded[key].dtype == array.dtype, key
        np.testing.assert_array_equal(loaded[key], array, err_msg=key, strict=True)


def fault_of(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_state_dict(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message, message
    return message


class FileRefusal:
    """``refused(path, *said)``: status 2, one line that names the file and says so, nothing written, little memory."""

    MEMORY = 192 << 20
    """Bytes; the files have some megabytes at most."""

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture):
        self._folder, self._capfd = folder, capfd

    def _files(self) -> dict[Path, int]:
        return {file: file.stat().st_mtime_ns for file in self._folder.rglob("*")}

    def __call__(self, path: Path, *said: str) -> None:
        before = self._files()
        tracemalloc.start()
        try:
            status = run_command(lambda argv: read_state_dict(argv[0]) and None, [str(path)])
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        lines = self._capfd.readouterr().err.splitlines()
        assert status == 2 and len(lines) == 1 and lines[0].startswith(f"error: {path}: ") and "; " in lines[0], lines
        assert len(lines[0]) < len(str(path)) + 500 and lines[0].isprintable()
        for words in said:
            assert words in lines[0], lines
        assert self._files() == before and peak < self.MEMORY
