"""Every command of README and docs but the tables', on tiny data: training is traced, what follows computes. And the
blocks of Python."""

import re

import jax
import numpy as np
import pytest

import cffm_jax

from helpers import documented, tiny_world
from helpers.drawn import lively
from helpers.hub import running
from helpers.runs import ROOT

pytestmark = pytest.mark.long

HOSTS = (
    "python train.py --config b1_vspw --init.encoder mit_b1.pth --workdir /shared/runs/b1 "
    "--cluster.coordinator host1:29500 --cluster.processes 2 --cluster.process"
)
NOT_RUN = {
    "python predict.py 0 --checkpoint RUN": "it wants a camera",
    "python convert.py RUN model.onnx --to onnx": "it wants jax2onnx: tests/export/test_onnx.py",
    "python convert.py RUN model.onnx --to onnx --size 480 853": "it wants jax2onnx: tests/export/test_onnx.py",
    **{f"{HOSTS} {i}": "it wants two hosts: tests/runtime/test_cluster.py" for i in range(2)},
}
"""Command -> why it does not run here, and which test runs what is like it."""
COMMANDS = [
    words
    for words, page in documented.CASES
    if page != "tables.md" and not words[1].startswith("benchmarks/") and " ".join(words) not in NOT_RUN
]


def test_what_is_not_run_is_there_and_the_rest_is():
    assert NOT_RUN.keys() <= {" ".join(words) for words, _ in documented.CASES}
    for path in documented.paths_in(" ".join(NOT_RUN.values())):
        assert (ROOT / path).is_file()


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
    """Standard input is a video."""
    world.make("video.mp4", None)
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


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_runs(words, world, video, monkeypatch):
    monkeypatch.chdir(world.folder)
    status = world.run(words, executing(monkeypatch.setattr))
    # So few frames do not have all of VSPW's classes, and the check says so.
    assert not status or (status == 1 and "cffm_jax.data.check" in words)


BLOCKS = {
    page: [block for language, block in documented.blocks_of(text) if language == "python"]
    for page, text in documented.TEXTS.items()
    if "```python" in text and "onnxruntime" not in text  # tests/export/test_onnx.py has the like of it.
}
"""Of each page, in its order: they share their names."""


@pytest.mark.parametrize("page", BLOCKS)
def test_the_python_of_a_page_runs(page, world, monkeypatch):
    """With what it leaves to the reader: frames, clips, a key."""
    monkeypatch.chdir(world.folder)
    for file in re.findall(r'load\("([^"]+)"', "".join(BLOCKS[page])):
        world.make(file, executing(monkeypatch.setattr))
    rng = np.random.default_rng(0)
    model = cffm_jax.create_model("cffm_b1", num_classes=124)
    given = {
        "np": np, "key": jax.random.key(0), "frames": [np.zeros((64, 96, 3), np.uint8)],
        "pair": np.zeros((2, 64, 96, 3), np.uint8),
        "clips": rng.standard_normal((1, 4, 64, 64, 3), np.float32), "prototypes": np.zeros((1, 100, 8), np.float32),
        "state_dict": cffm_jax.export_state_dict(lively(model), model),
        "tokens": rng.standard_normal((200, 8), np.float32),
    }  # fmt: skip
    for block in BLOCKS[page]:
        exec(block, given)
