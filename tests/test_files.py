"""Files of weights, among them hostile ones: torch's zip format is written here by hand, without torch."""

import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from cffm_jax.conversion.files import read_state_dict
from cffm_jax.errors import InputError

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
REBUILD = Global("torch._utils", "_rebuild_tensor_v2")
ORDERED = Call(Global("collections", "OrderedDict"), ())


class TorchFile:
    """Collects storages while tensors are described, then writes the zip."""

    def __init__(self):
        self.storages: dict[str, bytes] = {}

    def storage(self, data: np.ndarray, count: int | None = None) -> Reference:
        key = str(len(self.storages))
        self.storages[key] = data.tobytes()
        kind = Global("torch", STORAGES[data.dtype.name])
        return Reference(("storage", kind, key, "cpu", data.size if count is None else count))

    def tensor(self, array: np.ndarray, **changes: Any) -> Call:
        """A contiguous tensor; ``changes`` replaces storage, offset, shape or stride."""
        stride = tuple(s // array.itemsize for s in np.ascontiguousarray(array).strides) if array.ndim else ()
        parts = {"storage": None, "offset": 0, "shape": array.shape, "stride": stride} | changes
        parts["storage"] = parts["storage"] or self.storage(array)
        return Call(REBUILD, (*parts.values(), False, ORDERED))

    def write(self, path: Path, value: Any, prefix: str = "archive/") -> Path:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"{prefix}data.pkl", b"\x80\x02" + opcodes(value) + b".")
            archive.writestr(f"{prefix}byteorder", "little")
            for key, data in self.storages.items():
                archive.writestr(f"{prefix}data/{key}", data)
            archive.writestr(f"{prefix}version", "3\n")
        return path


def torch_file(path: Path, arrays: dict[str, np.ndarray], wrap: Callable = lambda x: x, **options: Any) -> Path:
    file = TorchFile()
    return file.write(path, wrap({key: file.tensor(array) for key, array in arrays.items()}), **options)


def write_npz(path: Path) -> Path:
    np.savez(path, **ARRAYS)
    return path


def write_safetensors(path: Path) -> Path:
    safetensors.numpy.save_file(ARRAYS, path)
    return path


WRITERS = {
    "weights.npz": write_npz,
    "weights.safetensors": write_safetensors,
    "weights.pth": lambda path: torch_file(path, ARRAYS),
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


# --- what is read --------------------------------------------------------------------------------------------------


@every_format
def test_a_file_gives_its_arrays(tmp_path, name):
    assert_same(read_state_dict(WRITERS[name](tmp_path / name)), ARRAYS)
    assert_same(read_state_dict(str(tmp_path / name)), ARRAYS)


@every_format
def test_the_content_tells_the_format_not_the_name(tmp_path, name):
    path = WRITERS[name](tmp_path / name).rename(tmp_path / "weights")
    assert_same(read_state_dict(path), ARRAYS)


@pytest.mark.parametrize("prefix", ["archive/", "mit_b0/", ""])
def test_any_folder_inside_the_zip(tmp_path, prefix):
    assert_same(read_state_dict(torch_file(tmp_path / "weights.pth", ARRAYS, prefix=prefix)), ARRAYS)


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_a_checkpoint_is_unwrapped(tmp_path, key):
    """As mmcv writes them: the weights beside notes and the optimiser's state, some of classes not here."""

    def wrap(weights: dict) -> dict:
        run = Build(New(Global("mmcv.utils.config", "ConfigDict"), ()), {"lr": 6e-5})
        moments = {0: {"step": 3, "exp_avg": list(weights.values())}}
        meta = {
            "epoch": 3,
            "iter": 160000,
            "time": "now",
            "config": run,
            "CLASSES": ("wall", "floor"),
            "env": [None, True, 1.5],
        }
        return {"meta": meta, key: weights, "optimizer": {"state": moments, "param_groups": [{"params": [0, 1]}]}}

    assert_same(read_state_dict(torch_file(tmp_path / "weights.pth", ARRAYS, wrap)), ARRAYS)


def test_an_ordered_state_dict_with_metadata(tmp_path):
    file = TorchFile()
    items = {key: file.tensor(array) for key, array in ARRAYS.items()}
    filled = opcodes(ORDERED) + opcodes(items)[1:]  # The empty dict's opcode is replaced by the ordered one.
    metadata = opcodes({"_metadata": {"": {"version": 1}}}) + b"b"
    path = file.write(tmp_path / "weights.pth", {})
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    entries["archive/data.pkl"] = b"\x80\x02" + filled + metadata + b"."
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    loaded = read_state_dict(path)
    assert_same(loaded, ARRAYS)
    assert list(loaded) == list(ARRAYS)


@pytest.mark.parametrize("dtype", STORAGES)
def test_every_type_of_storage(tmp_path, dtype):
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    array = np.array([[0, 1, 2], [3, 100, 1]]).astype(kind)
    assert_same(read_state_dict(torch_file(tmp_path / "weights.pth", {"a": array})), {"a": array})


def test_views_of_one_storage(tmp_path):
    base = np.arange(24, dtype=np.float32)
    file = TorchFile()
    storage = file.storage(base)
    views = {
        "all": base.reshape(4, 6),
        "row": base[6:12],
        "transposed": base.reshape(4, 6).T,
        "corner": base.reshape(4, 6)[2:, 3:],
        "element": base.reshape(4, 6)[3, 5],
        "repeated": np.broadcast_to(base[5], (3,)),
    }
    offsets = {"all": 0, "row": 6, "transposed": 0, "corner": 15, "element": 23, "repeated": 5}
    described = {
        key: file.tensor(
            base,
            storage=storage,
            offset=offsets[key],
            shape=np.shape(view),
            stride=tuple(s // 4 for s in np.asarray(view).strides),
        )
        for key, view in views.items()
    }
    loaded = read_state_dict(file.write(tmp_path / "weights.pth", described))
    for key, view in views.items():
        np.testing.assert_array_equal(loaded[key], view, err_msg=key)
        assert loaded[key].shape == np.shape(view)


def test_parameters_are_their_data(tmp_path):
    file = TorchFile()
    parameter = Call(Global("torch._utils", "_rebuild_parameter"), (file.tensor(ARRAYS["scalar"]), True, ORDERED))
    assert_same(
        read_state_dict(file.write(tmp_path / "weights.pth", {"scalar": parameter})), {"scalar": ARRAYS["scalar"]}
    )


@every_format
def test_arrays_can_be_changed_and_outlive_the_file(tmp_path, name):
    path = WRITERS[name](tmp_path / name)
    loaded = read_state_dict(path)
    path.unlink()
    loaded["backbone.norm.bias"] += 1
    np.testing.assert_array_equal(loaded["backbone.norm.bias"], [2.5, -1.5])


# --- what is refused -----------------------------------------------------------------------------------------------


def test_a_missing_file_and_a_folder(tmp_path):
    assert "no such file" in fault_of(tmp_path / "missing.pth")
    assert "model.safetensors.index.json" in fault_of(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        b"not weights at all\n" * 100,
        b"PK\x03\x04" + b"\0" * 100,
        b"PK\x05\x06" + b"\0" * 18,
        b"\x80\x02}q\x00.",
    ],
    ids=["empty", "one byte", "text", "start of a zip", "empty zip", "bare pickle"],
)
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    fault_of(path)


def test_text_that_looks_like_safetensors(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes((100).to_bytes(8, "little") + b"{ this is no header }" * 10)
    assert "cannot be read" in fault_of(path)


@every_format
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9, 0.99])
def test_truncated_files_are_refused(tmp_path, name, share):
    path = WRITERS[name](tmp_path / name)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    fault_of(path)


@pytest.mark.parametrize("name", ["weights.npz", "weights.pth"])
def test_a_flipped_byte_is_noticed(tmp_path, name):
    """A zip holds a checksum of each entry."""
    path = WRITERS[name](tmp_path / name)
    data = bytearray(path.read_bytes())
    place = bytes(data).index(ARRAYS["backbone.norm.weight"].tobytes())
    data[place + 5] ^= 1
    path.write_bytes(bytes(data))
    assert "cannot be read" in fault_of(path)


def test_a_compressed_npz_with_a_damaged_stream(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez_compressed(path, a=np.random.default_rng(0).standard_normal(2000))
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 50] = b"\xff" * 50
    path.write_bytes(bytes(data))
    assert "cannot be read" in fault_of(path)


def test_python_objects_in_an_npz_are_refused(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, a=np.array([{"a": 1}], object), b=np.ones(2))
    assert "cannot be read" in fault_of(path)


def test_a_zip_of_something_else(tmp_path):
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "neither torch's nor numpy's" in fault_of(path)


@pytest.mark.parametrize(
    "value",
    [{}, [1, 2], 3, None, {"state_dict": {}}, {"state_dict": {"a": 1}}, Call(Global("module", "Model"), ())],
    ids=["empty", "list", "number", "none", "empty state dict", "no tensors", "whole module"],
)
def test_pickles_without_weights(tmp_path, value):
    assert "holds no state dict" in fault_of(TorchFile().write(tmp_path / "weights.pth", value))


@pytest.mark.parametrize(
    "change",
    [
        {"offset": 1},
        {"offset": -1},
        {"offset": 2**62},
        {"shape": (2, 4)},
        {"shape": (3, 3)},
        {"shape": (-2, 3)},
        {"stride": (3, 2)},
        {"stride": (-3, 1)},
        {"stride": (1,)},
        {"shape": (2, 3, 1)},
        {"stride": (2**62, 1)},
    ],
    ids=lambda change: " ".join(f"{key} {value}" for key, value in change.items()),
)
def test_tensors_beyond_their_storage_are_refused(tmp_path, change):
    file = TorchFile()
    path = file.write(tmp_path / "weights.pth", {"a": file.tensor(ARRAYS["backbone.norm.weight"], **change)})
    assert "cannot be read" in fault_of(path)


@pytest.mark.parametrize("fault", ["too short", "absent", "no torch type", "unknown reference"])
def test_faulty_storages_are_refused(tmp_path, fault):
    file, array = TorchFile(), ARRAYS["backbone.norm.weight"]
    storage = file.storage(array, count=1000 if fault == "too short" else None)
    if fault == "absent":
        storage = Reference((*storage.pid[:2], "77", *storage.pid[3:]))
    elif fault == "no torch type":
        storage = Reference(("storage", Global("builtins", "dict"), *storage.pid[2:]))
    elif fault == "unknown reference":
        storage = Reference(("module", *storage.pid[1:]))
    path = file.write(tmp_path / "weights.pth", {"a": file.tensor(array, storage=storage)})
    assert "cannot be read" in fault_of(path)


# --- hostile pickles -----------------------------------------------------------------------------------------------

ATTACKS: dict[str, Callable[[str], Any]] = {
    "os.system": lambda sentinel: Call(Global("os", "system"), (f"touch {sentinel}",)),
    "posix.system": lambda sentinel: Call(Global("posix", "system"), (f"touch {sentinel}",)),
    "eval": lambda sentinel: Call(Global("builtins", "eval"), (f"open({sentinel!r}, 'w').close()",)),
    "exec": lambda sentinel: Call(Global("builtins", "exec"), (f"open({sentinel!r}, 'w').close()",)),
    "open": lambda sentinel: Call(Global("builtins", "open"), (sentinel, "w")),
    "subprocess": lambda sentinel: Call(Global("subprocess", "call"), (["touch", sentinel],)),
    "new": lambda sentinel: New(Global("subprocess", "Popen"), ()),
    "a call of a call": lambda sentinel: Call(
        Call(Global("builtins", "getattr"), (Call(Global("builtins", "__import__"), ("os",)), "system")),
        (f"touch {sentinel}",),
    ),
    "state": lambda sentinel: Build(
        New(Global("functools", "partial"), (Global("os", "system"), f"touch {sentinel}")), {"a": 1}
    ),
}
HARMLESS_IN_PICKLE = {"new", "state"}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("place", ["beside the weights", "as a weight", "as the whole file"])
def test_nothing_in_a_pickle_is_run(tmp_path, attack, place):
    sentinel = tmp_path / "sentinel"
    bomb = ATTACKS[attack](str(sentinel))
    file = TorchFile()
    weights = {key: file.tensor(array) for key, array in ARRAYS.items()}
    value = {
        "beside the weights": {"meta": bomb, "state_dict": weights},
        "as a weight": {**weights, "bomb": bomb},
        "as the whole file": bomb,
    }[place]
    path = file.write(tmp_path / "weights.pth", value)
    assert "do not trust it" in fault_of(path)
    assert not sentinel.exists()


@pytest.mark.parametrize("attack", [name for name in ATTACKS if name not in HARMLESS_IN_PICKLE])
def test_the_attacks_are_live(tmp_path, attack):
    """Python's own unpickler runs them, so that the test above can fail."""
    sentinel = tmp_path / "sentinel"
    opened = pickle.loads(b"\x80\x02" + opcodes(ATTACKS[attack](str(sentinel))) + b".")
    if hasattr(opened, "close"):
        opened.close()
    assert sentinel.exists()


def test_nothing_is_imported_by_a_pickle(tmp_path, monkeypatch):
    (tmp_path / "hostile_module.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    file = TorchFile()
    value = {"meta": Call(Global("hostile_module", "Thing"), ()), "state_dict": {"a": file.tensor(ARRAYS["scalar"])}}
    read_state_dict(file.write(tmp_path / "weights.pth", value))
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("name", [*WRITERS, "compressed.npz"])
def test_damage_anywhere_is_an_input_error(tmp_path, name):
    """Random bytes at random places: the file is still read or refused, never anything else."""
    path = tmp_path / name
    if name in WRITERS:
        WRITERS[name](path)
    else:
        np.savez_compressed(path, a=np.random.default_rng(0).standard_normal(300), b=np.zeros(1000))
    data, rng = path.read_bytes(), np.random.default_rng(1)
    refused = 0
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(len(data))] = rng.integers(256)
        path.write_bytes(bytes(damaged))
        try:
            read_state_dict(path)
        except InputError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 100


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = write_npz(tmp_path / "weights.npz")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    fault_of(path)
