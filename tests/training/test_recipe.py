"""What the config finetune takes from one's own data."""

import dataclasses
import json

import numpy as np
import pytest

from cffm_jax.commands.train import TrainOptions
from cffm_jax.config import SETTINGS, Config, DataConfig
from cffm_jax.config.checks import check_settings
from cffm_jax.errors import InputError
from cffm_jax.rules import values
from cffm_jax.runtime.command_line import CommandLine
from cffm_jax.settings import load_recipe
from cffm_jax.training.recipe import fitted

from helpers.datasets import write_own

BASE = Config(data=DataConfig(root="", layout="folder"))


def own(root, videos, size, names=4):
    write_own(root, videos, classes=names, size=size)
    write_own(root, videos, "val", classes=names, size=size)
    (root / "classes.txt").write_text("".join(f"class {i}\n" for i in range(names)))
    return root


def of_data(root, workdir, **given):
    given = {name.replace("__", "."): value for name, value in given.items()}
    return fitted(BASE, {"data.root": str(root), "workdir": str(workdir), **given})


@pytest.mark.parametrize(
    ("size", "frame_size", "crop"),
    [
        ((70, 100), (70, 100), (64, 96)),  # Their own, and what multiples of 32 they hold.
        ((20, 40), (20, 40), (32, 32)),
        ((720, 1280), (480, 853), (480, 480)),
        ((1280, 720), (853, 480), (480, 480)),
    ],
)
def test_sizes_are_those_of_the_frames(tmp_path, size, frame_size, crop):
    config, lines = of_data(own(tmp_path / "own", {"a": (1, {0})}, size), tmp_path / "run")
    assert (config.data.frame_size, config.data.crop) == (frame_size, crop)
    assert f"--data.frame-size {frame_size[0]} {frame_size[1]}: most frames are {size[0]}x{size[1]}" in "\n".join(lines)


@pytest.mark.parametrize(
    ("length", "offsets"), [(1, (3, 2, 1)), (4, (3, 2, 1)), (6, (5, 3, 2)), (10, (9, 6, 3)), (30, (9, 6, 3))]
)
def test_offsets_fit_the_videos(tmp_path, length, offsets):
    config, _ = of_data(own(tmp_path / "own", {"a": (length, {0})}, (32, 32)), tmp_path / "run")
    assert config.data.offsets == offsets


def test_every_value_that_is_taken_is_told_and_keeps_the_rules(tmp_path):
    root = own(tmp_path / "own", {"a": (6, {0, 3}), "b": (6, {1})}, (64, 64))
    config, lines = of_data(root, tmp_path / "run")
    check_settings(config)
    assert config.model.num_classes == 4 and config.train.batch_size == 2
    changed = {name for name, value in values(config).items() if value != values(BASE)[name]}
    told = {line.split(" ")[0].removeprefix("--").replace("-", "_") for line in lines}
    assert changed - {"data.root", "workdir"} <= told <= set(SETTINGS)
    assert config.train.eval_every < config.train.steps > config.optim.warmup_steps


def test_what_is_given_holds_and_is_built_on(tmp_path):
    root = own(tmp_path / "own", {"a": (6, {0})}, (64, 128))
    config, lines = of_data(root, tmp_path / "run", data__frame_size=(32, 64), train__steps=40, train__batch_size=8)
    assert config.data.crop == (32, 64) and config.train.steps == 40 and config.optim.warmup_steps == 2
    assert config.optim.rate == pytest.approx(6e-5)
    assert not any(line.startswith(("--train.steps", "--train.batch", "--data.frame")) for line in lines)


def test_a_run_that_has_begun_keeps_its_settings(tmp_path):
    """However the data grow, and once there is something to go on with."""
    root, run = own(tmp_path / "own", {"a": (6, {0})}, (64, 64)), tmp_path / "run"
    first, _ = of_data(root, run)
    run.mkdir()
    (run / "config.json").write_text(json.dumps(dataclasses.asdict(first)))
    own(root, {"a": (6, {0}), "b": (30, set(range(30)))}, (128, 128))
    assert of_data(root, run)[0] != first, "no step of it was saved"
    (run / "checkpoints" / "2").mkdir(parents=True)
    again, lines = of_data(root, run)
    assert again == first and lines == (f"settings: those that {run} was begun with",)


def test_the_command_line_goes_on_top(tmp_path, monkeypatch):
    root = own(tmp_path / "own", {"a": (6, {0})}, (64, 64))
    argv = f"--config finetune --data.root {root} --workdir {tmp_path / 'run'} --data.crop 32 32 --init.model hf:a/b"
    line = CommandLine(TrainOptions, argv.split(), "")
    config, lines = load_recipe(line.config, line.given)
    settings = line.over(TrainOptions(line.config, config)).settings
    assert settings.data.crop == (32, 32) and settings.init.model == "hf:a/b" and settings.model.num_classes == 4
    assert any(each.startswith("--train.steps") for each in lines)
    assert load_recipe("finetune")[0].data.root == "", "--help needs no data"


def test_data_that_cannot_be_used(tmp_path):
    root = own(tmp_path / "own", {"a": (2, {0})}, (32, 32))
    for path in (root / "a" / "frames").iterdir():
        path.write_bytes(np.zeros(4, np.uint8).tobytes())
    with pytest.raises(InputError, match="has no frame that can be read"):
        of_data(root, tmp_path / "run")
    (root / "classes.txt").unlink()
    with pytest.raises(InputError, match="--model.num-classes: is missing"):
        of_data(root, tmp_path / "run")
