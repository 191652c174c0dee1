"""Huge pages: asked for once, by starting anew with the same command line."""

import os
import subprocess
import sys

import pytest

from cffm_jax.runtime import memory


class Started(Exception):
    """In place of a new program."""


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Linux with glibc that gives huge pages for the asking; what it says of them can be written anew."""

    def execute(path, argv):
        raise Started(path, argv, os.environ["GLIBC_TUNABLES"])

    says = tmp_path / "enabled"
    says.write_text("always [madvise] never\n")
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(memory, "_HUGE", says)
    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory.os, "confstr", lambda name: "glibc 2.36", raising=False)
    monkeypatch.setattr(memory.os, "execv", execute)
    return says


def test_the_command_is_started_anew(machine):
    with pytest.raises(Started) as started:
        memory.use_huge_pages()
    assert started.value.args == (sys.executable, sys.orig_argv, "glibc.malloc.hugetlb=1")


@pytest.mark.parametrize("value", ["", "glibc.malloc.hugetlb=1", "glibc.malloc.check=3"])
def test_not_where_the_user_has_said_something(machine, monkeypatch, value):
    monkeypatch.setenv("GLIBC_TUNABLES", value)
    memory.use_huge_pages()
    assert os.environ["GLIBC_TUNABLES"] == value


@pytest.mark.parametrize("words", ["[always] madvise never", "always madvise [never]", None])
def test_not_where_asking_changes_nothing(machine, words):
    machine.write_text(words) if words else machine.unlink()
    memory.use_huge_pages()
    assert "GLIBC_TUNABLES" not in os.environ


@pytest.mark.parametrize(
    ("platform", "library"), [("darwin", "glibc 2.36"), ("linux", "glibc 2.34"), ("linux", "musl"), ("linux", None)]
)
def test_not_without_a_library_that_can(machine, monkeypatch, platform, library):
    monkeypatch.setattr(memory.sys, "platform", platform)
    monkeypatch.setattr(memory.os, "confstr", lambda name: library)
    memory.use_huge_pages()
    assert "GLIBC_TUNABLES" not in os.environ


def test_the_same_process_with_the_same_arguments():
    program = "import os, sys; from cffm_jax.runtime.memory import use_huge_pages; print(os.getpid(), flush=True)\n"
    program += "use_huge_pages(); print(os.environ.get('GLIBC_TUNABLES'), sys.warnoptions, sys.argv[1:])"
    environ = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    command = [sys.executable, "-W", "error", "-c", program, "a b", "--c", "*"]
    out = subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout.splitlines()
    asked = memory._to_be_had()
    assert len(set(out[:-1])) == 1 and len(out) == 2 + asked
    assert out[-1] == f"{'glibc.malloc.hugetlb=1' if asked else None} ['error'] ['a b', '--c', '*']"
