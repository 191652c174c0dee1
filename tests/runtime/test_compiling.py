"""Compiling that takes long is told, with the time that it took last."""

import json
import time

import jax
import numpy as np
import pytest

from cffm_jax.runtime import compiling as module
from cffm_jax.runtime.compiling import compiling


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The file of the times, of programs of which half a second is long."""
    monkeypatch.setattr(module, "_QUIET", 0.1)
    monkeypatch.setattr(module, "_folder", lambda: str(tmp_path / "xla"))
    return tmp_path / "xla" / "cffm_jax_seconds.json"


def started(monkeypatch, capfd, seconds=0.5, *events):
    """What a process says that compiles a program, twice."""
    monkeypatch.setattr(module, "_seen", set())

    def program(x):
        time.sleep(seconds)
        return x + 1

    for _ in range(2):
        with compiling("the program", "tiny", (8, 8)):
            jax.jit(program)(np.ones(3, np.float32))
            for event in events:
                jax.monitoring.record_event(event)
    return capfd.readouterr().err


def test_long_compiling_is_told_once_with_the_time_of_the_last(kept, monkeypatch, capfd):
    assert started(monkeypatch, capfd) == "compiling the program (the first time takes a while)\n"
    ((program, seconds),) = json.loads(kept.read_text()).items()
    assert seconds >= 0.5 and program.startswith("the program, tiny, (8, 8), ")
    kept.write_text(json.dumps({program: 38.4}))
    # What the cache had was quick, and is no time of compiling.
    said = started(monkeypatch, capfd, 0.5, "/jax/compilation_cache/cache_hits")
    assert said == "compiling the program (at most 38 s, as last time)\n"
    assert json.loads(kept.read_text())[program] == 38.4
    kept.write_text("no times")
    assert started(monkeypatch, capfd) == "compiling the program (the first time takes a while)\n"
    assert json.loads(kept.read_text())[program] == pytest.approx(seconds, abs=2)


def test_what_is_quick_is_not_told_and_what_cannot_be_kept_is_not_known(kept, monkeypatch, capfd):
    monkeypatch.setattr(module, "_QUIET", 20.0)
    assert started(monkeypatch, capfd, 0.0) == "" and not kept.exists()
    monkeypatch.setattr(module, "_QUIET", 0.1)
    kept.parent.write_text("a file where the folder would be")
    for folder in (str(kept.parent), "gs://bucket/xla", None):
        monkeypatch.setattr(module, "_folder", lambda folder=folder: folder)
        assert "(the first time" in started(monkeypatch, capfd)
