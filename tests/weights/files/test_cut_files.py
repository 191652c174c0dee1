"""Files whose end is missing, as of a download that stopped, or has something behind it: called that, with their size
now and, where the format says it, the size that they should have."""

import json
import re

import pytest

from cffm_jax.weights.files.read import read_state_dict

from helpers.weight_files import ARRAYS, WRITERS, every_format, fault_of, torch_file, write_safetensors


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])
    return path


@every_format
def test_wherever_it_is_cut(tmp_path, name):
    whole = WRITERS[name](tmp_path / name).read_bytes()
    path = tmp_path / "cut"
    for size in {*range(16, len(whole), 61), len(whole) // 2, len(whole) - 30, len(whole) - 1}:
        path.write_bytes(whole[:size])
        message = fault_of(path)
        assert f"it is cut off: {size:,} bytes are there" in message, message
        assert "; fetch it again" in message
        should = re.search(r"([\d,]+) should be\)", message)
        assert not should or int(should[1].replace(",", "")) == len(whole), message


@pytest.mark.parametrize("name", ["weights.safetensors", "legacy.pth"])
def test_the_size_that_it_should_have(tmp_path, name):
    path = WRITERS[name](tmp_path / name)
    size = path.stat().st_size
    assert f"cut off: {size - 5:,} bytes are there, {size:,} should be" in fault_of(cut(path, size - 5))


def test_a_header_that_is_cut(tmp_path):
    path = write_safetensors(tmp_path / "a.safetensors")
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert f"cut off: 100 bytes are there, its header alone takes {header:,}" in fault_of(cut(path, 100))
    assert "cut off: 8 bytes are there" in fault_of(cut(path, 8))


@every_format
def test_a_few_bytes(tmp_path, name):
    whole = WRITERS[name](tmp_path / name).read_bytes()
    for size in range(1, 16):
        path = tmp_path / "cut"
        path.write_bytes(whole[:size])
        message = fault_of(path)
        assert "cut off" in message and re.search(rf"\b{size} bytes are there", message), message


@every_format
@pytest.mark.parametrize("behind", [b"\0", b"hello\n", b"\xff" * 70_000, b"PK\x05\x06" * 20_000])
def test_bytes_behind_the_end(tmp_path, name, behind):
    """They are called that, but for a few behind a zip, whose reader finds the end by itself."""
    whole = WRITERS[name](tmp_path / name).read_bytes()
    path = tmp_path / "longer"
    path.write_bytes(whole + behind)
    finds_its_end = name.endswith("safetensors") or name == "legacy.pth"
    if not finds_its_end and len(behind) < 2**16:
        assert read_state_dict(path).keys() == read_state_dict(tmp_path / name).keys()
        return
    message = fault_of(path)
    told = f"it ends after {len(whole):,} bytes, and {path.stat().st_size:,} are there: {len(behind):,} too many"
    if behind.startswith(b"PK") and not finds_its_end:
        assert "cannot be read" in message
    else:
        assert told in message and f"truncate -s {len(whole)} FILE" in message


@every_format
def test_two_files_in_one(tmp_path, name):
    """Neither is silently taken."""
    whole = WRITERS[name](tmp_path / name).read_bytes()
    path = tmp_path / "both"
    path.write_bytes(whole + whole)
    message = fault_of(path)
    assert f"{len(whole):,} bytes stand before its start" in message or f"it ends after {len(whole):,} bytes" in message


def test_an_index_of_shards(tmp_path):
    torch_file(tmp_path / "a.bin", ARRAYS)
    path = tmp_path / "pytorch_model.bin.index.json"
    text = json.dumps({"weight_map": dict.fromkeys(ARRAYS, "a.bin")})
    path.write_text(text)
    assert len(read_state_dict(path)) == len(ARRAYS)
    path.write_text(text[:-9])
    assert f"cut off: {len(text) - 9} bytes are there" in fault_of(path)
    path.write_text(text + "more")
    assert f"it ends after {len(text):,} bytes, and {len(text) + 4:,} are there" in fault_of(path)
    path.write_text(text[:-9] + "}}")
    assert "cut off" not in fault_of(path)


def test_a_comment_at_the_end_of_a_zip(tmp_path):
    path = WRITERS["weights.npz"](tmp_path / "weights.npz")
    whole = path.read_bytes()
    path.write_bytes(whole[:-2] + (10).to_bytes(2, "little") + b"ten bytes.")
    assert len(read_state_dict(path)) == len(ARRAYS)
    size = len(whole) + 10
    assert f"cut off: {size - 4:,} bytes are there, {size:,} should be" in fault_of(cut(path, size - 4))
