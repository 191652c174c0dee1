"""The commands of benchmarks in docs: the options of each are there, and of some scripts one runs on tiny sizes."""

import argparse
import os
from unittest import mock

import pytest
import tyro

from cffm_jax.runtime.command_line import CommandLine

from helpers import documented
from helpers.runs import ROOT

pytestmark = pytest.mark.long

COMMANDS = [words for words, _ in documented.CASES if words[1].startswith("benchmarks/")]
FRAMES = ("--height", "64", "--width", "96")
TINY = {
    ("context.py",): (*FRAMES, "--seconds", "0.01"),
    ("data.py",): (*FRAMES, "--videos", "1", "--workers", "0", "--threads", "1", "--clips", "2", "--rounds", "1"),
    ("memory.py",): ("--frames", "20"),
    ("scaling.py", "--bytes"): (),
}  # fmt: skip
"""Script, with an option of the command that is taken -> what makes it tiny."""
ELSEWHERE = {
    "convert.py": "a process and 62 MB for each of its rows; it times what tests/weights/test_conversion.py runs",
    "inference.py": "tests/benchmarks/test_inference_benchmark.py",
    "kmeans.py": "its programs compile for a minute; tests/models/test_kmeans.py",
    "metrics.py": "frames so small have no steady pixels to compare; tests/metrics/test_metrics.py",
    "model.py": "it compiles whole networks for minutes; tests/models/test_models.py",
    "soak.py": "it kills runs for minutes; tests/test_commands.py does so once",
    "tiles.py": "tests/benchmarks/test_tiles_benchmark.py",
    "train.py": "it trains real networks for minutes, by train.py, which the pages' commands run",
}
"""Script that is not run here -> why, and where what is like it runs."""


class Parsed(Exception):
    pass


def script(words):
    return words[1].removeprefix("benchmarks/")


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    """Some set variables, and would start anew for huge pages."""
    monkeypatch.chdir(tmp_path)
    with mock.patch.dict(os.environ, {"GLIBC_TUNABLES": ""}):
        yield


def test_every_script_is_run_or_said_why_not():
    assert {name for name, *_ in TINY} | set(ELSEWHERE) == {script(words) for words in COMMANDS}
    for path in documented.paths_in(" ".join(ELSEWHERE.values())):
        assert (ROOT / path).is_file()


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_options_are_there(words, monkeypatch):
    """Up to the place where all of them have been read."""

    def stops(read):
        """Reads what it is to read, and goes no further."""

        def instead(*arguments, **options):
            result = read(*arguments, **options)
            if "return_unknown_args" in options:  # As `CommandLine` calls tyro.
                return result
            raise Parsed

        return instead

    for owner, name in ((CommandLine, "over"), (tyro, "cli"), (argparse.ArgumentParser, "parse_args")):
        monkeypatch.setattr(owner, name, stops(getattr(owner, name)))
    with pytest.raises(Parsed):
        documented.run(words, monkeypatch.setattr)


@pytest.mark.parametrize("which", TINY, ids=" ".join)
def test_a_script_prints_its_table(which, monkeypatch, capfd):
    name, *options = which
    words = next(words for words in COMMANDS if script(words) == name and {*options} <= {*words})
    status = 0
    try:
        documented.run((*words, *TINY[which]), monkeypatch.setattr)
    except SystemExit as ended:
        status = ended.code
    out, err = capfd.readouterr()
    # Where a process computes for other tests too, its memory need not stay.
    assert not status or name == "memory.py", err
    assert "|---|---|" in out.replace(" ", "")
