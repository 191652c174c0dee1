"""Files that are hostile, damaged or something else: each is refused in one line, and nothing in it is run.

Every case is a function that writes one file into a folder; ``refused`` reads it as a command would.
"""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from weight_files import (
    ARRAYS,
    LEGACY_START,
    WRITERS,
    Build,
    Call,
    Global,
    New,
    Raw,
    Reference,
    TorchFile,
    every_format,
    fault_of,
    opcodes,
    torch_file,
    write_npz,
)  # fmt: skip

from cffm_jax.conversion import archives, unpickle
from cffm_jax.conversion.files import read_state_dict
from cffm_jax.errors import InputError
from cffm_jax.settings import run_command

WEIGHT = ARRAYS["backbone.norm.weight"]
MEMORY = 192 << 20
"""Bytes that refusing a file may take: the files here have some megabytes at most."""


@pytest.fixture
def refused(tmp_path, capfd):
    """``refused(path, *said)``: status 2, one line that names the file and says so, nothing written, little memory."""

    def check(path: Path, *said: str) -> None:
        before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
        tracemalloc.start()
        try:
            status = run_command(lambda argv: read_state_dict(argv[0]) and None, [str(path)])
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        lines = capfd.readouterr().err.splitlines()
        assert status == 2 and len(lines) == 1 and lines[0].startswith(f"error: {path}: ") and "; " in lines[0], lines
        assert len(lines[0]) < len(str(path)) + 500 and lines[0].isprintable()
        for words in said:
            assert words in lines[0]
        assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before
        assert peak < MEMORY

    return check


# --- pickles that would run something --------------------------------------------------------------------------------


def shell(sentinel: str) -> str:
    return f"touch {sentinel}"


def python(sentinel: str) -> str:
    return f"open({sentinel!r}, 'w').close()"


def text(value: str) -> bytes:
    return opcodes(value)


ATTACKS: dict[str, Callable[[str], Any]] = {
    "os.system": lambda s: Call(Global("os", "system"), (shell(s),)),
    "posix.system": lambda s: Call(Global("posix", "system"), (shell(s),)),
    "eval": lambda s: Call(Global("builtins", "eval"), (python(s),)),
    "exec": lambda s: Call(Global("builtins", "exec"), (python(s),)),
    "exec, as Python 2 named it": lambda s: Call(Global("__builtin__", "exec"), (python(s),)),
    "open": lambda s: Call(Global("builtins", "open"), (s, "w")),
    "subprocess": lambda s: Call(Global("subprocess", "call"), (["touch", s],)),
    "runpy of a file": lambda s: Call(Global("runpy", "run_path"), (str(Path(s).with_name("program.py")),)),
    "a call of a call": lambda s: Call(
        Call(Global("builtins", "getattr"), (Call(Global("builtins", "__import__"), ("os",)), "system")), (shell(s),)
    ),
    "a nested name": lambda s: Raw(
        text("cffm_jax.conversion.writers") + text("os.system") + b"\x93" + opcodes((shell(s),)) + b"R"
    ),
    "a pickle in a pickle": lambda s: Call(
        Global("pickle", "loads"), (Raw(b"B" + struct.pack("<I", len(INNER(s))) + INNER(s)),)
    ),
    "INST": lambda s: Raw(b"(" + text(shell(s)) + b"ios\nsystem\n"),
    "OBJ": lambda s: Raw(b"(cos\nsystem\n" + text(shell(s)) + b"o"),
    "STACK_GLOBAL": lambda s: Raw(text("os") + text("system") + b"\x93" + opcodes((shell(s),)) + b"R"),
    "NEWOBJ of a class": lambda s: New(Global("subprocess", "Popen"), (["touch", s],)),
    "NEWOBJ_EX": lambda s: Raw(
        b"csubprocess\nPopen\n" + opcodes((["touch", s],)) + opcodes({"shell": False}) + b"\x92"
    ),
    "BUILD of a partial": lambda s: Call(
        Build(
            Call(Global("functools", "partial"), (Global("builtins", "print"),)),
            (Global("os", "system"), (shell(s),), {}, None),
        ),
        (),
    ),
    "BUILD of a module's state": lambda s: Build(Global("os", "system"), (None, {"__doc__": s})),
}
INNER: Callable[[str], bytes] = lambda s: b"\x80\x02" + opcodes(ATTACKS["exec"](s)) + b"."  # noqa: E731
HARMLESS_IN_PICKLE = {"exec, as Python 2 named it", "NEWOBJ of a class", "NEWOBJ_EX", "BUILD of a module's state"}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("place", ["beside the weights", "as a weight", "as a key", "as the whole file"])
def test_nothing_in_a_pickle_is_run(tmp_path, attack, legacy, place, refused):
    sentinel = tmp_path / "sentinel"
    (tmp_path / "program.py").write_text(python(str(sentinel)))
    bomb = ATTACKS[attack](str(sentinel))
    file = TorchFile(legacy)
    weights = {key: file.tensor(array) for key, array in ARRAYS.items()}
    value = {
        "beside the weights": {"meta": bomb, "state_dict": weights},
        "as a weight": {**weights, "bomb": bomb},
        "as a key": Raw(opcodes(weights) + opcodes(bomb) + b"Ns"),
        "as the whole file": bomb,
    }[place]
    refused(file.write(tmp_path / "weights.pth", value), "do not trust it")
    assert not sentinel.exists()


@pytest.mark.parametrize("attack", [name for name in ATTACKS if name not in HARMLESS_IN_PICKLE])
def test_the_attacks_are_live(tmp_path, attack):
    """Python's own unpickler runs them, so that the test above can fail."""
    sentinel = tmp_path / "sentinel"
    (tmp_path / "program.py").write_text(python(str(sentinel)))
    opened = pickle.loads(b"\x80\x04" + opcodes(ATTACKS[attack](str(sentinel))) + b".")
    if hasattr(opened, "close"):
        opened.close()
    assert sentinel.exists()


@pytest.mark.parametrize("place", range(4))
def test_every_pickle_of_the_old_format_is_read_as_data(tmp_path, place, refused):
    sentinel = tmp_path / "sentinel"
    parts = [LEGACY_START[:15], LEGACY_START[15:], b"\x80\x02}.", b"\x80\x02}."]
    parts[place] = (LEGACY_START[:13] if place == 0 else b"\x80\x02") + opcodes(ATTACKS["exec"](str(sentinel))) + b"."
    path = tmp_path / "weights.pth"
    path.write_bytes(b"".join(parts))
    refused(path)
    assert not sentinel.exists()


def test_unknown_names_are_neither_imported_nor_changed(tmp_path, monkeypatch):
    """Classes of modules that could be imported here, made, filled and given state, are left alone."""
    (tmp_path / "hostile_module.py").write_text(python(str(tmp_path / "imported")))
    monkeypatch.syspath_prepend(tmp_path)
    before = dict(vars(InputError))
    file = TorchFile()
    ours = Global("cffm_jax.errors", "InputError")
    meta = [
        Call(Global("hostile_module", "Thing"), ()),
        Build(Global("hostile_module", "Thing"), {"a": 1}),
        Build(ours, (None, {"__init__": None, "__doc__": "changed"})),
        Raw(opcodes(New(ours, ())) + b"(" + text("a") + b"Nu"),
        Raw(opcodes(New(Global("collections", "OrderedDict"), ())) + opcodes({"items": 3}) + b"b"),
    ]
    value = {"meta": meta, "state_dict": {"a": file.tensor(WEIGHT)}}
    assert list(read_state_dict(file.write(tmp_path / "weights.pth", value))) == ["a"]
    assert not (tmp_path / "imported").exists()
    assert dict(vars(InputError)) == before


# --- pickles that would take memory, time or the process --------------------------------------------------------------

BOMBS: dict[str, Callable[[], Any]] = {
    "a far memo index": lambda: Raw(b"Nr\xff\xff\xff\xff"),
    "a far memo index in text": lambda: Raw(b"Np99999999999999\n"),
    "bytes by the exabyte": lambda: Raw(b"\x8e" + struct.pack("<Q", 2**62)),
    "a bytearray by the gigabyte": lambda: Raw(b"\x96" + struct.pack("<Q", 2**36)),
    "text by the exabyte": lambda: Raw(b"\x8d" + struct.pack("<Q", 2**63)),
    "text by the gigabyte": lambda: Raw(b"X" + struct.pack("<I", 2**32 - 1)),
    "an integer by the gigabyte": lambda: Raw(b"\x8b" + struct.pack("<i", 2**31 - 1)),
    "an integer of negative length": lambda: Raw(b"\x8b" + struct.pack("<i", -5)),
    "digits": lambda: Raw(b"L" + b"9" * 100_000 + b"L\n"),
    "a frame by the exabyte": lambda: Raw(b"\x95" + struct.pack("<Q", 2**62) + b"N" * 5),
    "a key of deep tuples": lambda: Raw(b"})" + b"\x85" * 200_000 + b"Ns"),
    "deep lists": lambda: Raw(b"]" * 100_000 + b"a" * 99_999),
    "deep calls": lambda: Raw(b"cx\ny\n" + b")R" * 60_000),
    "many marks": lambda: Raw(b"(" * 100_000),
    "an extension": lambda: Raw(b"\x82\x01"),
    "a wide extension": lambda: Raw(b"\x84\x01\x00\x00\x00"),
    "a buffer out of band": lambda: Raw(b"\x97"),
    "a persistent id in text": lambda: Raw(b"Pstorage\n"),
    "a list that holds itself": lambda: Raw(b"]q\x00h\x00a"),
    "a wrapper that holds itself": lambda: Raw(b"}q\x00" + text("state_dict") + b"h\x00s"),
    "an empty stack": lambda: Raw(b"0"),
    "a mark without a start": lambda: Raw(b"t"),
    "a memo entry that is not there": lambda: Raw(b"h\x07"),
    "no end": lambda: Raw(b"N" * 10),
    "an odd number of items": lambda: Raw(b"}(NNNu"),
    "items for a number": lambda: Raw(b"K\x01(NNu"),
    "state of nothing": lambda: Raw(b"b"),
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_bombs_in_a_pickle(tmp_path, bomb, legacy, refused):
    refused(TorchFile(legacy).write(tmp_path / "weights.pth", BOMBS[bomb]()))


def test_keys_of_one_hash_take_no_time(tmp_path):
    """In a dictionary of Python each of them would meet all others: minutes."""
    keys = b"".join(b"\x8a\x10" + (i * (2**61 - 1)).to_bytes(16, "little") + b"N" for i in range(60_000))
    file = TorchFile()
    value = {"optimizer": Raw(b"}(" + keys + b"u"), "state_dict": {"a": file.tensor(WEIGHT)}}
    assert list(read_state_dict(file.write(tmp_path / "weights.pth", value))) == ["a"]


def test_limits_of_a_pickle(tmp_path, monkeypatch, refused):
    path = torch_file(tmp_path / "weights.pth", ARRAYS)
    monkeypatch.setattr(unpickle, "MAX_OPCODES", 50)
    refused(path, "more than 50 opcodes")
    monkeypatch.setattr(unpickle, "MAX_BYTES", 100)
    refused(path, "larger than 100 bytes")
    refused(torch_file(tmp_path / "legacy.pth", ARRAYS, legacy=True), "cannot be read")


# --- tensors ---------------------------------------------------------------------------------------------------------


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
        {"shape": (10**9,), "stride": (0,)},
        {"shape": (1,) * 40, "stride": (1,) * 40},
        {"shape": (0, 2**62), "stride": (1, 1)},
        {"shape": ("a", 3)},
        {"shape": (True, 3)},
        {"shape": None},
        {"storage": "text"},
        {"storage": Call(Global("x", "y"), ())},
    ],
    ids=lambda change: " ".join(f"{key} {value}"[:30] for key, value in change.items()),
)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_tensors_beyond_their_storage(tmp_path, change, legacy, refused):
    file = TorchFile(legacy)
    path = file.write(tmp_path / "weights.pth", {"a": file.tensor(WEIGHT, **change)})
    refused(path, "cannot be read")


@pytest.mark.parametrize(
    "fault", ["too short", "too long", "absent", "no torch type", "unknown reference", "elsewhere"]
)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_faulty_storages(tmp_path, fault, legacy, refused):
    file = TorchFile(legacy)
    pid = list(file.storage(WEIGHT).pid)
    if fault in ("too short", "too long"):
        pid[4] += 1000 if fault == "too short" else -3
    elif fault in ("absent", "elsewhere"):
        pid[2] = "77" if fault == "absent" else "../data.pkl"
    elif fault == "no torch type":
        pid[1] = Global("builtins", "dict")
    else:
        pid[0] = "something"
    tensor = file.tensor(WEIGHT[:1], storage=Reference(tuple(pid)))
    refused(file.write(tmp_path / "weights.pth", {"a": tensor}), "cannot be read")


def test_many_large_views_of_one_storage(tmp_path, refused):
    """Each is allowed, but a file of 100 KB would become 100 MB."""
    file, base = TorchFile(), np.zeros(25_000, np.float32)
    storage = file.storage(base)
    views = {f"a{i}": file.tensor(base, storage=storage) for i in range(1000)}
    refused(file.write(tmp_path / "weights.pth", views), "its tensors share storage")


@pytest.mark.parametrize("name", ["_rebuild_sparse_tensor", "_rebuild_qtensor", "_rebuild_nested_tensor"])
def test_tensors_of_other_kinds_are_refused_by_name(tmp_path, name, refused):
    tensor = Call(Global("torch._utils", name), (1, 2))
    file = TorchFile()
    path = file.write(tmp_path / "weights.pth", {"a.b": tensor, "c": file.tensor(WEIGHT)})
    refused(path, "a.b is no plain tensor", name)


def test_a_negated_view_is_refused(tmp_path, refused):
    file = TorchFile()
    call = file.tensor(WEIGHT)
    path = file.write(tmp_path / "weights.pth", {"a": Call(call.function, (*call.arguments, {"neg": True}))})
    refused(path, "a is no plain tensor")


@pytest.mark.parametrize("key", ["a\nb", "", "a" * 600, "\x1b[31m", "\u202e"])
def test_keys_that_would_spoil_a_message(tmp_path, key, refused):
    refused(torch_file(tmp_path / "weights.pth", {key: WEIGHT}), "a key that is no name")
    if key:
        np.savez(tmp_path / "weights.npz", **{key: WEIGHT})
        refused(tmp_path / "weights.npz")


@pytest.mark.parametrize(
    "array",
    [np.ones(2, np.complex64), np.array(["a"]), np.zeros(2, "f4,i4"), np.zeros(1, "M8[s]"), np.array([{}], object)],
    ids=["complex", "text", "structured", "dates", "objects"],
)
def test_arrays_that_are_no_numbers(tmp_path, array, refused):
    path = tmp_path / "weights.npz"
    np.savez(path, **{"a.b": array, "c": WEIGHT})
    refused(path, "a.b ")


def test_complex_tensors(tmp_path, refused):
    file = TorchFile()
    file.storages["0"] = b"\0" * 16
    storage = Reference(("storage", Global("torch", "ComplexFloatStorage"), "0", "cpu", 2))
    path = file.write(tmp_path / "weights.pth", {"a.b": file.tensor(np.ones(2, np.float32), storage=storage)})
    refused(path, "a.b has the type complex64")


@pytest.mark.parametrize(
    "value",
    [{}, [1, 2], 3, None, {"state_dict": {}}, {"state_dict": {"a": 1}}, Global("module", "Model")],
    ids=["empty", "list", "number", "none", "empty state dict", "no tensors", "a class"],
)
def test_pickles_without_weights(tmp_path, value, refused):
    refused(TorchFile().write(tmp_path / "weights.pth", value), "holds no state dict")


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"model": x, "epoch": 3}], ids=["alone", "wrapped"])
def test_a_pickled_module(tmp_path, wrap, refused):
    module = Build(New(Global("mmseg.models", "EncoderDecoder"), ()), {"training": False})
    path = TorchFile().write(tmp_path / "weights.pth", wrap(module))
    refused(path, "a whole object: mmseg.models.EncoderDecoder", "save model.state_dict()")


# --- archives --------------------------------------------------------------------------------------------------------


def rezipped(path: Path, change: Callable[[dict[str, bytes]], Any] = lambda members: None, **options: Any) -> Path:
    """A file of torch whose members are changed; ``options`` of ZipFile."""
    torch_file(path, ARRAYS)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize(
    "name", ["../evil", "archive/../../evil", "/etc/evil", "C:/evil", "..\\evil", "archive//evil", "./evil", "a\x01b"]
)
def test_members_that_lead_elsewhere(tmp_path, name, refused):
    path = rezipped(tmp_path / "weights.pth", lambda members: members.update({name: b"x"}))
    refused(path, "leads elsewhere")


def test_two_members_of_one_name(tmp_path, refused):
    path = rezipped(tmp_path / "weights.pth")
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("archive/data/0", b"x" * 24)
    refused(path, "two members have the name archive/data/0")


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=["bzip2", "lzma"])
def test_unusual_compression(tmp_path, compression, refused):
    """These unfold without bound while they are read."""
    refused(rezipped(tmp_path / "weights.pth", compression=compression), "compressed in a way")


def patched(path: Path, signature: bytes, offset: int, value: bytes, which: int = 0) -> Path:
    """Bytes replaced in the ``which``-th record of a zip that starts with a signature."""
    data = bytearray(path.read_bytes())
    place = -1
    for _ in range(which + 1):
        place = bytes(data).index(signature, place + 1)
    data[place + offset : place + offset + len(value)] = value
    path.write_bytes(bytes(data))
    return path


DIRECTORY, HEADER, END = b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"


@pytest.mark.parametrize(
    "signature, offset, value, said",
    [
        (DIRECTORY, 8, b"\x01\x00", "encrypted"),
        (DIRECTORY, 20, struct.pack("<I", 2**31), "two sizes"),
        (DIRECTORY, 24, struct.pack("<I", 2**31), "two sizes"),
        (DIRECTORY, 42, struct.pack("<I", 2**31), "overlaps"),
        (DIRECTORY, 10, b"\x63\x00", "compressed in a way"),
        (DIRECTORY, 28, b"\xff\xff", ""),
        (HEADER, 26, b"\xff\xff", ""),
        (HEADER, 30, b"z", ""),
        (HEADER, 0, b"PK\x07\x08", ""),
        (END, 12, struct.pack("<I", 2**31), ""),
        (END, 16, struct.pack("<I", 2**31), ""),
        (END, 10, b"\xff\xff", ""),
    ],
)
def test_wrong_records_of_a_zip(tmp_path, signature, offset, value, said, refused):
    path = patched(rezipped(tmp_path / "weights.pth"), signature, offset, value)
    if signature == END and offset == 10:  # The number of members is not looked at: the list itself is.
        assert len(read_state_dict(path)) == len(ARRAYS)
    else:
        refused(path, said)


def test_members_that_overlap(tmp_path, refused):
    """Two entries of the list that share their data: the usual way of making a bomb that is no deep one."""
    path = rezipped(tmp_path / "weights.pth", lambda m: m.update({"archive/data/8": m["archive/data/0"]}))
    first = path.read_bytes().index(b"archive/data/0") - 30
    count = path.read_bytes().count(DIRECTORY)
    refused(patched(path, DIRECTORY, 42, struct.pack("<I", first), which=count - 1), "overlaps")


@pytest.mark.parametrize("name", ["weights.npz", "weights.pth"])
def test_a_zip_that_would_unfold(tmp_path, name, refused):
    path = tmp_path / name
    data, options = bytes(70 << 20), {"compression": zipfile.ZIP_DEFLATED, "compresslevel": 1}
    if name.endswith("npz"):
        with zipfile.ZipFile(path, "w", **options) as archive:
            archive.writestr("a.npy", data)
    else:
        rezipped(path, lambda members: members.update({"archive/data/0": data}), **options)
    assert path.stat().st_size < 1 << 20
    refused(path, "it would unfold")


def test_limits_of_an_archive(tmp_path, monkeypatch, refused):
    path = rezipped(tmp_path / "weights.pth")
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    refused(path, "more than 3")
    monkeypatch.setattr(archives, "MAX_DIRECTORY", 100)
    refused(path, "its list of members is larger than 100 bytes")


def test_other_zips(tmp_path, refused):
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(path, "neither torch's nor numpy's")
    refused(rezipped(path, lambda m: m.update({"archive/code/model.py": b"x"})), "TorchScript")
    refused(rezipped(path, lambda m: m.update({"archive/constants.pkl": b"x"})), "TorchScript")
    refused(rezipped(path, lambda m: m.update({"archive/byteorder": b"big"})), "another byte order")


# --- npz and safetensors ------------------------------------------------------------------------------------------


def npy(header: str, data: bytes = bytes(24), version: tuple[int, int] = (1, 0)) -> bytes:
    encoded = header.encode("latin1")
    length = struct.pack("<H" if version == (1, 0) else "<I", len(encoded))
    return b"\x93NUMPY" + bytes(version) + length + encoded + data


@pytest.mark.parametrize(
    "member",
    [
        b"",
        b"\x93NUMPY",
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (10**12,)}"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-6,)}"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (7,)}"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (5,)}"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': 6}"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (True, 6)}"),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (3,)}"),
        npy("{'descr': 'os.system', 'fortran_order': False, 'shape': (6,)}"),
        npy("{'descr': __import__('os'), 'fortran_order': False, 'shape': (6,)}"),
        npy("(" * 9000),
        npy("-" * 9000 + "1"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (6,)}" + " " * 20_000),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (6,)}", version=(3, 0)),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (6,)}", version=(9, 0)),
    ],
)
def test_wrong_members_of_an_npz(tmp_path, member, refused):
    path = tmp_path / "weights.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", member)
    refused(path, "cannot be read")


def test_an_npz_of_python_2_is_read_in_silence(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L)}"))
    np.testing.assert_array_equal(read_state_dict(tmp_path / "a.npz")["a"], np.zeros((2, 3)))


def safetensor(header: Any, data: bytes = bytes(24), length: int | None = None) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded + data


def entry(**changes: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]} | changes}


@pytest.mark.parametrize(
    "content",
    [
        safetensor({}),
        safetensor(entry(), length=2**63),
        safetensor(entry(), length=0),
        safetensor(entry(), bytes(23)),
        safetensor(entry(), bytes(25)),
        safetensor(entry(shape=[2, 4])),
        safetensor(entry(shape=[-2, 3])),
        safetensor(entry(shape=[2**40, 2**40])),
        safetensor(entry(shape=[1] * 50 + [6])),
        safetensor(entry(data_offsets=[0, 2**62])),
        safetensor(entry(data_offsets=[24, 0])),
        safetensor(entry(data_offsets=[4, 28]), bytes(28)),
        safetensor(entry(dtype="F4", shape=[48])),
        safetensor(entry(dtype="X9")),
        safetensor(entry(dtype="C64", shape=[3])),
        safetensor(entry() | {"b": {"dtype": "F32", "shape": [2], "data_offsets": [16, 24]}}),
        safetensor({"a\nb": entry()["a"]}),
        safetensor(entry() | {"__metadata__": {"a": 3}}),
        safetensor(b'{"a":' * 100_000),
        safetensor(b"{" + b"\xff" * 20),
    ],
)
def test_wrong_safetensors(tmp_path, content, refused):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    refused(path)


# --- other files -----------------------------------------------------------------------------------------------------

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4665a5ea" * 8 + b"\nsize 12345\n"


def tar_of(name: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    return out.getvalue()


OTHERS = {
    "empty": (b"", "is empty"),
    "one byte": (b"x", ""),
    "text": (b"not weights at all\n" * 100, "is a text file"),
    "a text of few characters": (b"12345678{ this is no header }" * 10, "is a text file"),
    "Git LFS pointer": (LFS, "is a Git LFS pointer"),
    "web page": (b"\n<!DOCTYPE html>\n<html><head>Sign in</head></html>", "is a web page"),
    "XML": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is a web page"),
    "JSON": (b'{"error": "not found"}', "no index of shards"),
    "start of a zip": (b"PK\x03\x04" + b"\0" * 100, ""),
    "empty zip": (b"PK\x05\x06" + b"\0" * 18, ""),
    "bare pickle": (b"\x80\x02}q\x00.", "is a pickle, but not torch's"),
    "gzip": (b"\x1f\x8b\x08" + b"\0" * 50, "is compressed by gzip"),
    "7z": (b"7z\xbc\xaf'\x1c" + b"\0" * 50, "is a 7z archive"),
    "rar": (b"Rar!\x1a\x07\x01\0" + b"\0" * 50, "is a rar archive"),
    "tar": (tar_of("mit_b1.pth"), "is a tar archive"),
    "torch 0.1": (tar_of("sys_info"), "torch < 0.1.10"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + b"\0" * 50, "is an HDF5 file"),
    "npy": (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (6,)}"), "is a single array"),
    "zeros": (bytes(1000), "is no file of weights"),
    "noise": (np.random.default_rng(0).bytes(1000), "is no file of weights"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_other_files(tmp_path, other, refused):
    path = tmp_path / "weights.pth"
    path.write_bytes(OTHERS[other][0])
    refused(path, OTHERS[other][1])


def test_no_file_at_all(tmp_path, refused):
    refused(tmp_path / "missing.pth", "no such file")
    refused(tmp_path, "model.safetensors.index.json")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "is no file")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = write_npz(tmp_path / "weights.npz")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    assert "Permission denied" in fault_of(path)


# --- damage ----------------------------------------------------------------------------------------------------------


@every_format
@pytest.mark.parametrize("share", [0.001, 0.02, 0.05, 0.1, 0.3, 0.5, 0.6, 0.8, 0.9, 0.99])
def test_truncated_files(tmp_path, name, share, refused):
    path = WRITERS[name](tmp_path / name)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refused(path)


@pytest.mark.parametrize("name", ["weights.npz", "compressed.npz", "weights.pth"])
def test_a_flipped_bit_of_the_data_is_noticed(tmp_path, name, refused):
    """A zip holds a checksum of each member; the other formats have none."""
    path = tmp_path / name
    arrays = {"a": np.random.default_rng(0).standard_normal(2000)}
    if name.endswith("pth"):
        torch_file(path, arrays)
    else:
        (np.savez_compressed if name.startswith("c") else np.savez)(path, **arrays)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    refused(path, "cannot be read")


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Bits flipped, bytes replaced, a part cut off, taken out, doubled, or moved elsewhere."""
    changed = bytearray(data)
    start, end = sorted(rng.integers(len(data), size=2))
    match rng.integers(6):
        case 0:
            for place in rng.integers(len(data), size=rng.integers(1, 4)):
                changed[place] ^= 1 << rng.integers(8)
        case 1:
            for place in rng.integers(len(data), size=rng.integers(1, 4)):
                changed[place] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.integers(256)])
        case 2:
            del changed[end:]
        case 3:
            del changed[start : min(end, start + 40)]
        case 4:
            changed[start:start] = changed[start:end]
        case _:
            changed[end:end] = bytes(changed[start : start + 30])
    return bytes(changed)


@every_format
def test_damage_anywhere(tmp_path, name):
    """300 mutations of each format: the file is read or refused; nothing else, no warning, no large piece of memory."""
    path = WRITERS[name](tmp_path / name)
    data, rng = path.read_bytes(), np.random.default_rng(7)
    refused = 0
    tracemalloc.start()
    try:
        for _ in range(300):
            path.write_bytes(mutated(data, rng))
            try:
                for array in read_state_dict(path).values():
                    assert type(array) is np.ndarray
            except InputError as error:
                assert str(error).isprintable() and len(str(error)) < len(str(path)) + 500
                refused += 1
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
    assert refused > 100
    assert sorted(tmp_path.iterdir()) == [path]


def test_a_process_of_its_own_ends_in_peace(tmp_path):
    """Crashes that Python cannot catch would end it: deep tuples as keys, deep structures that are freed."""
    paths = []
    for i, bomb in enumerate(("a key of deep tuples", "deep lists", "deep calls")):
        paths.append(str(TorchFile().write(tmp_path / f"{i}.pth", BOMBS[bomb]())))
    program = (
        "import sys\nfrom cffm_jax.conversion.files import read_state_dict\nfrom cffm_jax.errors import InputError\n"
        "for path in sys.argv[1:]:\n    try:\n        read_state_dict(path)\n"
        "    except InputError:\n        print('refused')\n"
    )
    root = str(Path(__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", program, *paths], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0 and done.stdout.split() == ["refused"] * 3 and not done.stderr, done.stderr
