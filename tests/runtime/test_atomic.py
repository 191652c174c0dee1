"""Files and folders that are there whole or not at all."""

import errno
import json

import pytest

from cffm_jax.errors import InputError
from cffm_jax.runtime import atomic


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_at_the_end_and_replaces_the_old_one(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    (tmp_path / ".a.txt.partial").write_text("left by a process that was killed, longer than what comes")
    with atomic.whole_file(path) as partial:
        assert not partial.exists()
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("fault", [KeyError("x"), KeyboardInterrupt()])
def test_a_file_that_fails_leaves_the_old_one(tmp_path, fault):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(type(fault)), atomic.whole_file(path) as partial:
        partial.write_text("half")
        raise fault
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_a_full_disk_is_one_line_with_the_callers_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(InputError, match=r"a\.json: cannot be written \(No space left on device\); make room$"):
        atomic.write_json(tmp_path / "a.json", {}, "make room")
    assert names(tmp_path) == []


def test_no_folder_to_write_into(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "none" / "a.txt", tmp_path / "file" / "a.txt", tmp_path):
        with pytest.raises(InputError, match="cannot be written"):
            atomic.write_text(path, "a")
    assert names(tmp_path) == ["file"]


def test_texts_keep_their_line_ends_and_json_makes_its_folder(tmp_path):
    atomic.write_text(tmp_path / "a.txt", "ä\r\nb\n")
    assert (tmp_path / "a.txt").read_bytes() == "ä\r\nb\n".encode()
    atomic.write_json(tmp_path / "new" / "a.json", {"a": 1})
    assert json.loads((tmp_path / "new" / "a.json").read_text()) == {"a": 1}


@pytest.mark.parametrize("name", ["n" * 255, "é" * 127])
def test_the_longest_names_can_be_written(tmp_path, name):
    atomic.write_text(tmp_path / name, "a")
    with atomic.WholeFolder(tmp_path / "folder" / name):
        pass
    assert names(tmp_path) == sorted([name, "folder"]) and names(tmp_path / "folder") == [name]


def test_a_name_that_is_too_long_is_told_before_the_work(tmp_path):
    for made in (atomic.whole_file(tmp_path / ("n" * 256)), atomic.WholeFolder(tmp_path / "new" / ("n" * 256))):
        with pytest.raises(InputError, match="File name too long"), made:
            pytest.fail("the work has begun")
    assert names(tmp_path) == []


def test_a_disk_is_never_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic.os.path, "ismount", lambda path: True)
    with pytest.raises(InputError, match="a disk is mounted there"), atomic.WholeFolder(tmp_path / "a"):
        pytest.fail("the work has begun")


def test_long_names_that_begin_alike_are_made_side_by_side(tmp_path):
    with atomic.WholeFolder(tmp_path / ("n" * 90 + "1")) as one, atomic.WholeFolder(tmp_path / ("n" * 90 + "2")) as two:
        (one.partial / "1").touch()
        (two.partial / "2").touch()
    assert names(one.folder) == ["1"] and names(two.folder) == ["2"]


@pytest.mark.parametrize("there", [False, True], ids=["new", "empty"])
def test_a_folder_appears_at_the_end(tmp_path, there):
    folder = tmp_path / "a" / "b"
    if there:
        folder.mkdir(parents=True)
    with atomic.WholeFolder(folder) as made:
        (made.partial / "file").touch()
        assert not there or names(folder) == []
    assert names(tmp_path) == ["a"] and names(tmp_path / "a") == ["b"] and names(folder) == ["file"]


def test_a_folder_that_fails_leaves_nothing_not_even_its_parents(tmp_path):
    with pytest.raises(KeyError), atomic.WholeFolder(tmp_path / "a" / "b"):
        raise KeyError("x")
    assert names(tmp_path) == []


def test_a_folder_that_was_filled_meanwhile_is_kept(tmp_path):
    with pytest.raises(InputError, match="cannot be written"), atomic.WholeFolder(tmp_path / "a"):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "theirs").touch()
    assert names(tmp_path) == ["a"] and names(tmp_path / "a") == ["theirs"]


def test_a_folder_is_replaced_when_asked_and_comes_back_when_that_fails(tmp_path, monkeypatch):
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "old").touch()
    with atomic.WholeFolder(folder, overwrite=True) as made:
        (made.partial / "new").touch()
        assert names(folder) == ["old"]
    assert names(tmp_path) == ["a"] and names(folder) == ["new"]

    replace = atomic.os.replace

    def fails_once(source, target):
        if source == made.partial:
            full()
        replace(source, target)

    monkeypatch.setattr(atomic.os, "replace", fails_once)
    with pytest.raises(InputError, match="No space left"), made:
        pass
    assert names(tmp_path) == ["a"] and names(folder) == ["new"]


def test_what_fails_while_writing_into_a_folder_is_told_of_the_folder(tmp_path):
    with pytest.raises(InputError, match=r"a: cannot be written \(No space left on device\)"):
        with atomic.WholeFolder(tmp_path / "a") as made, made.writing():
            full()
    assert names(tmp_path) == []


def test_the_root_of_the_file_system_is_never_removed():
    folder = atomic.WholeFolder("/")
    assert folder.partial != folder.folder
