"""Files of weights that are damaged, too large or something else: each is refused in one line."""

import io
import json
import os
import struct
import tarfile
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cffm_jax.errors import InputError
from cffm_jax.weights.files import zip_guard
from cffm_jax.weights.files.read import open_weights, read_state_dict
from cffm_jax.weights.files.stored_array import reading

from helpers.weight_files import ARRAYS, WRITERS, FileRefusal, every_format, fault_of, torch_file, write_npz

pytestmark = pytest.mark.long

WEIGHT = ARRAYS["backbone.norm.weight"]


@pytest.fixture
def refused(tmp_path, capfd):
    return FileRefusal(tmp_path, capfd)


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
    monkeypatch.setattr(zip_guard, "MAX_MEMBERS", 3)
    refused(path, "more than 3")
    monkeypatch.setattr(zip_guard, "MAX_DIRECTORY", 100)
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
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -3)}"),
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


def test_memory_that_is_not_there():
    with pytest.raises(InputError, match="a.npz: cannot be read .it asks for more memory than there is"):
        with reading("a.npz"):
            raise MemoryError


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


@every_format
def test_a_file_that_is_cut_off_is_not_even_described(tmp_path, name):
    path = WRITERS[name](tmp_path / name)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="cannot be read"), open_weights(path):
        pass


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


def test_a_large_file_is_described_at_once(tmp_path):
    """8 GB of which nothing is on the disk, and nothing is read."""
    path = tmp_path / "weights.safetensors"
    header = {
        f"a{i}": {"dtype": "F32", "shape": [2**18, 1024], "data_offsets": [i << 30, i + 1 << 30]} for i in range(8)
    }
    path.write_bytes(safetensor(header, b""))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + (8 << 30))
    tracemalloc.start()
    try:
        with open_weights(path) as weights:
            assert {array.shape for array in weights.arrays.values()} == {(2**18, 1024)}
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_more_bytes_than_any_model_has(tmp_path, refused):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(safetensor({"a": {"dtype": "F32", "shape": [2**33], "data_offsets": [0, 2**35]}}, b""))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + 2**35)
    refused(path, "its arrays take 34359738368 bytes")
