"""Every command of benchmarks in docs, to its table, on tiny sizes: large networks are traced hollow, not compiled."""

import contextlib
import os
import re
from unittest import mock

import pytest
from jax.experimental import topologies

from cffm_jax.models.encoders import mit

from helpers import documented, in_process, runs, tiny_world

pytestmark = pytest.mark.long

APART = ("benchmarks/compared_systems.py", "benchmarks/real_videos.py")
"""They have tests of their own: one needs torch (pytest -m reference), one whole datasets."""
COMMANDS = [words for words, _ in documented.CASES if words[1].startswith("benchmarks/") and words[1] not in APART]
OF_ONNX = "onnx_engines.py"
"""It needs an extra."""
FRAMES = ("--height", "64", "--width", "96")
SIZES = ("--size", "64", "96", "--frame-size", "64", "96")
TINY = {
    "context.py": (*FRAMES, "--seconds", "0.01"),
    "convert.py": (),
    "data.py": (*FRAMES, "--videos", "1", "--workers", "0", "--threads", "1", "--clips", "2", "--rounds", "1"),
    # Causal prototypes are not more than a frame's tokens.
    "gpu_check.py": ("--tiny", "--parts", "device"),
    "inference.py": ("--size", "96", "96", "--seconds", "0", "--calls", "1"),
    "kmeans.py": (*FRAMES, "--length", "10", "--k", "4", "--iterations", "1", "--rounds", "1"),
    "many_videos.py": (*"--model segformer_b0 --videos 2 --frames 1 --kills 0".split(), *SIZES),
    "memory.py": ("--frames", "20"),
    OF_ONNX: (*"--models cffm_b0 --size 64 96 --frames 2 --engines onnxruntime".split(),),
    "metrics.py": ("--size", "96", "160", "--frames", "16", "--repeats", "1"),
    "model.py": (*FRAMES, "--output", "64", "96", "--crop", "64", "64", "--seconds", "0"),
    "roofline.py": ("--frame", "64", "96", "--crop", "64", "64", "--chunk", "2", "--clips", "1"),
    "scaling.py": (),
    "soak.py": ("--kills", "1", "--terminations", "1", "--steps", "6", "--interval", "2", "--cores", "2"),
    "tiles.py": ("--size", "96", "96"),
    "train.py": ("--models", "cffm_b0", "--crop", "64", "64", "--batch", "1", "--steps", "4"),
    "training_memory.py": ("--crop", "64", "64", "--batch", "1"),
}
"""Script -> what makes its commands tiny."""
REAL, COMPUTED = ("gpu_check.py", "many_videos.py", "soak.py"), ("context.py", "kmeans.py", OF_ONNX)
COMPILED = ("roofline.py", "scaling.py", "training_memory.py")
"""Scripts whose processes are real ones, to be ended; of small programs; and what reads compiled ones."""
ALIKE = {f"b{i}": mit.MiTSize((8, 16, 40, 64), runs.DEPTHS, f"b{i}") for i in range(6)}


def script(words):
    return words[1].removeprefix("benchmarks/")


@pytest.fixture(scope="module", autouse=True)
def alike():
    """All backbones are, so that what was traced of one need not be of another."""
    with tiny_world.sized(ALIKE):
        yield


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    """Some set variables, would start anew for huge pages, or compile for devices that are not there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(topologies, "get_topology_desc", lambda **_: topologies.get_attached_topology())
    with mock.patch.dict(os.environ, {"GLIBC_TUNABLES": ""}):
        yield


def test_every_script_that_docs_name_has_its_sizes():
    assert {*TINY} == {script(words) for words in COMMANDS}


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(words, id=" ".join(words), marks=[pytest.mark.onnx] if script(words) == OF_ONNX else [])
        for words in COMMANDS
    ],
)
def test_a_command_prints_its_table(words, monkeypatch, capfd):
    name, status = script(words), 0
    with contextlib.ExitStack() as stack:
        if name in REAL:
            stack.enter_context(mock.patch.dict(os.environ, runs.seeing(1)))
        else:
            stack.enter_context(in_process.starting_here())
        if name not in REAL + COMPUTED:
            stack.enter_context(in_process.hollow(compiled=name in COMPILED))
        if name not in REAL + COMPUTED + COMPILED:
            stack.enter_context(tiny_world.traced())
        try:
            documented.run((*words, *TINY[name]), monkeypatch.setattr)
        except SystemExit as ended:
            status = ended.code
    out, err = capfd.readouterr()
    # Where a process computes for other tests too, its memory need not stay.
    assert not status or name == "memory.py", err
    assert "|---|---|" in out.replace(" ", "")
    rows = [line for line in out.splitlines() if re.match(r"\|.*\d", line) and "PyTorch" not in line]
    assert rows and not re.search(r"\b(nan|inf|status|gave up)\b", "\n".join(rows)), out
