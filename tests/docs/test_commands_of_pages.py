"""Every command of README and docs but the tables', on tiny data: training is traced, what follows computes. And the
blocks of Python."""

import re
import sys
from unittest import mock

import cv2
import jax
import numpy as np
import pytest

import cffm_jax
from cffm_jax.checkpoints.by_path import newest_whole

from helpers import documented, tiny_world
from helpers.drawn import lively
from helpers.hub import running
from helpers.runs import ROOT, address, ended, seeing, started

pytestmark = pytest.mark.long

COMMANDS = [words for words, page in documented.CASES if page != "tables.md" and not words[1].startswith("benchmarks/")]
HOSTS = [words for words in COMMANDS if "train.py" in words and "--cluster.process" in words]
"""Those of one run on several hosts, in the order of their numbers."""


def case(words):
    return pytest.param(
        words, id=" ".join(words), marks=[pytest.mark.onnx] if any("onnx" in word for word in words) else []
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """With a hub."""
    folder = tmp_path_factory.mktemp("pages")
    with tiny_world.world(folder, "README.md") as world, pytest.MonkeyPatch.context() as patch:
        with running(patch, tmp_path_factory.mktemp("hub")) as hub:
            tiny_world.on_hub(hub, tmp_path_factory.mktemp("repository"))
            yield world


@pytest.fixture
def video(world, monkeypatch):
    """Standard input is a video, and what the first camera gives."""
    world.make("video.mp4", None)
    opened = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda name, *others: opened("video.mp4" if name == 0 else name, *others))
    with (world.folder / "video.mp4").open() as file:
        monkeypatch.setattr("sys.stdin", file)
        yield


def executing(setattr_):
    def execute(words):
        if words[1] == "train.py" or "cffm_jax.study" in words:
            with tiny_world.traced():
                return documented.run(words, setattr_)
        return documented.run(words, setattr_)

    return execute


@pytest.mark.parametrize("words", [case(words) for words in COMMANDS if words not in HOSTS])
def test_a_command_runs(words, world, video, monkeypatch):
    monkeypatch.chdir(world.folder)
    status = world.run(words, executing(monkeypatch.setattr))
    # So few frames do not have all of VSPW's classes, and the check says so.
    assert not status or (status == 1 and "cffm_jax.data.check" in words)


def test_the_commands_of_two_hosts_train_one_run(world, monkeypatch):
    """As two processes of this host."""
    monkeypatch.chdir(world.folder)
    where = address()

    def together(words):
        at = words.index("--cluster.process") + 1
        commands = [
            (*words[:at], str(i), *words[at + 1 :], "--train.batch_size", "2", "--train.devices", "0")
            for i in range(len(HOSTS))
        ]
        commands = [[where if word == "host1:29500" else word for word in command] for command in commands]
        env = {**seeing(1), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
        told = ended([started("-c", tiny_world.TRACED, *each, cwd=world.folder, env=env) for each in commands])
        assert [status for status, *_ in told] == [0, 0], told
        assert newest_whole("shared/runs/b1")[0] == 1
        return 0

    assert [words[-1] for words in HOSTS] == ["0", "1"] and len({words[:-1] for words in HOSTS}) == 1
    world.run(HOSTS[0], together)


def quantize(model, inputs, subset_size, **_):
    """NNCF's, which reads the model's inputs by name."""
    assert len(inputs) == subset_size > 0
    assert all({each.any_name for each in model.inputs} == set(step) for step in inputs)
    return model


BLOCKS = {page: blocks for page, text in documented.TEXTS.items() if (blocks := documented.python_of(text))}
"""Of each page, in its order: they share their names."""


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.onnx] if page == "onnx.md" else []) for page in BLOCKS]
)
def test_the_python_of_a_page_runs(page, world, monkeypatch):
    """With what it leaves to the reader: frames, clips, a key. NNCF need not be installed."""
    monkeypatch.chdir(world.folder)
    monkeypatch.setitem(sys.modules, "nncf", mock.Mock(Dataset=list, quantize=quantize))
    for file in re.findall(r'(?:load|InferenceSession)\("([^"]+)"', "".join(BLOCKS[page])):
        world.make(file, executing(monkeypatch.setattr))
    rng, frames = np.random.default_rng(0), [np.zeros((64, 96, 3), np.uint8)]
    model = cffm_jax.create_model("cffm_b1", num_classes=124)
    given = {
        "np": np, "key": jax.random.key(0), "frames": frames, "video": frames,
        "pair": np.zeros((2, 64, 96, 3), np.uint8),
        "clips": rng.standard_normal((1, 4, 64, 64, 3), np.float32), "prototypes": np.zeros((1, 100, 8), np.float32),
        "state_dict": cffm_jax.export_state_dict(lively(model), model),
        "tokens": rng.standard_normal((200, 8), np.float32),
    }  # fmt: skip
    for block in BLOCKS[page]:
        exec(block, given)
