"""Progress: its rate without what stands still, a bar on terminals, lines elsewhere; with a clock set by hand."""

import io
import sys

import pytest

from cffm_jax.runtime import progress
from cffm_jax.runtime.progress import Progress


@pytest.fixture
def now(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


def steps(bar, now, count, seconds):
    for _ in range(count):
        now[0] += seconds
        bar.update()


def test_a_log_file_gets_a_line_every_half_minute(now, capfd):
    with Progress(total=100, desc="train", unit="step") as bar:
        steps(bar, now, 1, 40)  # Compiling: no rate yet.
        steps(bar, now, 30, 2)
        bar.pause()
        steps(bar, now, 1, 500)  # An evaluation.
        steps(bar, now, 15, 2)
        bar.set_postfix_str("loss 1.5")
        bar.write("a message", file=sys.stderr)
    lines = [line.split(", ") for line in capfd.readouterr().err.splitlines()]
    assert [line[0].split(" (")[0] for line in lines] == [
        "train: 1/100", "train: 16/100", "train: 31/100", "train: 32/100", "train: 47/100", "a message",
        "train: 47/100",
    ]  # fmt: skip
    assert lines[0][0].endswith("(1 %)") and lines[0][1].endswith(" so far") and len(lines[0]) == 2
    assert {line[1] for line in lines[1:5]} == {"2.00s/step"} and lines[-1][-1] == "loss 1.5"
    assert [line[3] for line in lines[1:5]] == ["02:48 left", "02:18 left", "02:16 left", "01:46 left"]


def test_what_was_quick_and_leaves_nothing_says_nothing_in_a_log_file(now, capfd):
    assert list(Progress("abc", desc="read", leave=False)) == ["a", "b", "c"]
    assert capfd.readouterr().err == ""
    assert list(Progress("abc", desc="read")) == ["a", "b", "c"]
    assert capfd.readouterr().err.startswith("read: 3/3, ")
    with Progress(desc="camera", unit="frame", disable=True) as bar:
        steps(bar, now, 3, 60)
    assert capfd.readouterr().err == ""
    with Progress(desc="camera", unit="frame") as bar:
        steps(bar, now, 3, 60)
    assert capfd.readouterr().err.splitlines()[1].startswith("camera: 2, 60.00s/frame, ")


def test_a_terminal_has_a_bar(now, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress(total=10, desc="predict", unit="frame", mininterval=0) as bar:
        steps(bar, now, 1, 60)
        assert "<?, ?frame/s]" in sys.stderr.getvalue()
        steps(bar, now, 4, 0.5)
        drawn = sys.stderr.getvalue()
    assert drawn.count("\n") == 0 and drawn.endswith("<00:02,  2.00frame/s]") and "5/10" in drawn


def test_without_standard_error_it_is_silent(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert list(Progress([1, 2])) == [1, 2]
