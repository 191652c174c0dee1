"""Weight files that are written here: read back bit by bit, the same bytes each time, whole or not at all."""

import errno
import os
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from cffm_jax.errors import InputError
from cffm_jax.runtime import atomic
from cffm_jax.weights.files.read import open_weights, read_state_dict
from cffm_jax.weights.files.write import write_safetensors, write_torch

from helpers.weight_files import assert_same

TYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
META = {"epoch": 3, "lr": 6e-5, "CLASSES": ("wall", "Wände"), "config": {"depths": [2, 2], 3: None, "large": 2**40}}
WRITERS = {"a.pth": write_torch, "a.safetensors": write_safetensors}
every_writer = pytest.mark.parametrize("name", WRITERS)


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    drawn = {f"block.{name}": rng.integers(0, 2, (3, 5)).astype(getattr(ml_dtypes, name, name)) for name in TYPES}
    normal = rng.standard_normal((4, 6)).astype(np.float32)
    return drawn | {
        "normal": normal,
        "not finite": np.array([np.nan, -np.inf, -0.0], np.float16),
        "transposed": normal.T,
        "strided": normal[::2, ::3],
        "big-endian": normal.astype(">f4"),
        "scalar": np.array(7, np.int64),
        "empty": np.zeros((0, 3), np.float32),
        "empty too": np.zeros((2, 0, 3), ml_dtypes.bfloat16),
        "Schlüssel": np.ones(1, np.float32),
    }


@every_writer
def test_round_trip(tmp_path, name):
    expected = arrays()
    WRITERS[name](tmp_path / name, expected)
    loaded = read_state_dict(tmp_path / name)
    assert_same(loaded, {key: array.astype(array.dtype.newbyteorder("=")) for key, array in expected.items()})
    for key, array in loaded.items():
        native = expected[key].astype(array.dtype)
        assert array.tobytes() == native.tobytes(), key
    assert sorted(tmp_path.iterdir()) == [tmp_path / name]


def test_the_library_reads_the_safetensors(tmp_path):
    expected = {key: array.astype(array.dtype.newbyteorder("=")) for key, array in arrays().items()}
    write_safetensors(tmp_path / "a.safetensors", expected, {"b": "2", "a": "Ü"})
    assert_same(safetensors.numpy.load_file(tmp_path / "a.safetensors"), expected)
    with safetensors.safe_open(tmp_path / "a.safetensors", "np") as file:
        assert file.metadata() == {"a": "Ü", "b": "2"}


def test_metadata_comes_back(tmp_path):
    write_torch(tmp_path / "a.pth", arrays(), META)
    with open_weights(tmp_path / "a.pth") as weights:
        assert weights.metadata == META and weights.format == "torch (zip)" and weights.ignored == ("meta",)
        assert list(weights.arrays) == list(arrays())
    write_safetensors(tmp_path / "a.safetensors", arrays(), {"b": "2", "a": "1"})
    with open_weights(tmp_path / "a.safetensors") as weights:
        assert weights.metadata == {"a": "1", "b": "2"}


@every_writer
def test_the_same_arrays_give_the_same_bytes(tmp_path, name):
    metadata = {letter: letter for letter in "abcdefgh"}
    for i in range(3):
        WRITERS[name](tmp_path / f"{i}", arrays(), dict(reversed(metadata.items())) if name.endswith("s") else metadata)
    assert len({(tmp_path / f"{i}").read_bytes() for i in range(3)}) == 1


def test_members_are_aligned_and_plain(tmp_path):
    write_torch(tmp_path / "a.pth", arrays())
    with zipfile.ZipFile(tmp_path / "a.pth") as archive, (tmp_path / "a.pth").open("rb") as file:
        assert archive.testzip() is None
        for member in archive.infolist():
            file.seek(member.header_offset + 26)
            lengths = np.frombuffer(file.read(4), "<u2")
            assert (member.header_offset + 30 + int(lengths.sum())) % 64 == 0
            assert member.compress_type == zipfile.ZIP_STORED and member.date_time == (1980, 1, 1, 0, 0, 0)


@every_writer
def test_entries_are_read_one_at_a_time(tmp_path, name):
    """In the writer's own order, each when it is written."""
    read = []

    def entry(key: str):
        return key, (2, 3), np.dtype(np.float32), lambda: read.append(key) or np.full((2, 3), len(read), np.float32)

    WRITERS[name](tmp_path / name, map(entry, "cab"))
    assert read == ["c", "a", "b"]
    assert {key: array[0, 0] for key, array in read_state_dict(tmp_path / name).items()} == {"c": 1, "a": 2, "b": 3}


@every_writer
def test_an_entry_that_is_not_as_announced(tmp_path, name):
    entry = ("a", (2, 3), np.dtype(np.float32), lambda: np.zeros((3, 2), np.float32))
    with pytest.raises(ValueError, match="as announced"):
        WRITERS[name](tmp_path / name, [entry])
    assert not list(tmp_path.iterdir())


@every_writer
def test_types_that_the_format_has_not(tmp_path, name):
    with pytest.raises(InputError, match="a.b has the type complex128"):
        WRITERS[name](tmp_path / name, {"a.b": np.ones(2, np.complex128)})
    assert not list(tmp_path.iterdir())


def no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupted(*_):
    raise KeyboardInterrupt


@every_writer
@pytest.mark.parametrize("what", ["fsync", "replace"])
@pytest.mark.parametrize("fault, error", [(no_space, InputError), (interrupted, KeyboardInterrupt)])
def test_what_is_there_stays_when_writing_fails(tmp_path, name, what, fault, error, monkeypatch):
    path = tmp_path / name
    path.write_bytes(b"before")
    monkeypatch.setattr(atomic.os, what, fault)
    with pytest.raises(error, match="cannot be written" if error is InputError else None):
        WRITERS[name](path, arrays())
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"before"


@every_writer
def test_a_fault_in_the_middle_leaves_nothing(tmp_path, name):
    def fail():
        assert any(file.stat().st_size for file in tmp_path.iterdir()) or name.endswith("s")
        raise InputError("source", "is damaged", "fetch it again")

    float32 = np.dtype(np.float32)
    entries = [("a", (9999,), float32, lambda: np.zeros(9999, float32)), ("b", (1,), float32, fail)]
    with pytest.raises(InputError, match="source: is damaged"):
        WRITERS[name](tmp_path / name, entries)
    assert not list(tmp_path.iterdir())


@every_writer
@pytest.mark.parametrize("place", ["no/such/folder", "a file/below", "a folder"])
def test_places_that_cannot_be_written(tmp_path, name, place):
    (tmp_path / "a file").write_text("")
    (tmp_path / "a folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="cannot be written") as caught:
        WRITERS[name](Path(tmp_path / place), arrays())
    assert str(caught.value).startswith(f"{tmp_path / place}: ")
    assert sorted(tmp_path.rglob("*")) == before
