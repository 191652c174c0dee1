"""A method that is none of the papers' family, through the real commands: they ask no method what kind it is."""

import json

import numpy as np
import pytest
from PIL import Image

import cffm_jax
from cffm_jax.commands.convert import convert_command
from cffm_jax.runtime.command_line import run_command

from helpers.runs import FIGURES, SIZE, STEPS, finished, log_lines, train_argv

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """Folder of a run of ST-PPM, trained by the real command."""
    workdir = tmp_path_factory.mktemp("stppm") / "run"
    status, out, err = finished("train.py", *train_argv(data, workdir, "--model.name", "stppm_b0", "--profile"))
    assert status == 0, err
    assert f"profile of steps 3 to {STEPS}: python -m pip install xprof; xprof --logdir {workdir}/profile" in out
    assert len(list(workdir.glob("profile/plugins/profile/*/*.trace.json.gz"))) == 1
    return workdir


def test_it_logs_the_parts_of_its_loss(run):
    lines = [line for line in log_lines(run, "train") if "clip_loss" in line]
    assert lines and all(line["loss"] == pytest.approx(line["clip_loss"] + line["frame_loss"] / 2) for line in lines)


def test_it_is_evaluated(run, data, tmp_path):
    argv = ["--checkpoint", run, "--data.root", data, "--output", tmp_path / "eval.json", "--eval.devices", "1"]
    status, out, err = finished("eval.py", *argv)
    assert status == 0 and out.startswith("stppm_b0, "), err
    rows = json.loads((tmp_path / "eval.json").read_text())["rows"]
    assert list(rows) == ["ST-PPM", "per-frame (SegFormer)"]
    assert all(np.isfinite(rows["ST-PPM"][name]) for name in FIGURES)


def test_it_converts_streams_and_is_exported(run, data, tmp_path, capfd):
    assert run_command(convert_command, [str(run), str(tmp_path / "model.safetensors")]) == 0
    frames = sorted((data / "data" / "val_0000" / "origin").glob("*.jpg"))[:5]
    argv = [*frames, "--checkpoint", tmp_path / "model.safetensors", "--output", tmp_path / "masks", "--no-overlay"]
    status, out, err = finished("predict.py", *argv)
    assert status == 0 and "5 frames" in out, err
    masks = sorted((tmp_path / "masks" / "masks").glob("*.png"))
    with Image.open(masks[0]) as mask:
        assert len(masks) == 5 and mask.size == SIZE[::-1]
    assert list(cffm_jax.load(tmp_path / "model.safetensors").stream([], rate=30)) == []
    argv = [tmp_path / "model.safetensors", tmp_path / "stream", "--to", "jax-export", "--size", *SIZE]
    assert run_command(convert_command, [*map(str, argv)]) == 0
    assert (tmp_path / "stream" / "step.jax").stat().st_size > 0
    argv = [tmp_path / "model.safetensors", tmp_path / "x.pth", "--to", "torch"]
    assert run_command(convert_command, [*map(str, argv)]) == 2
    assert "has no counterpart in the release" in capfd.readouterr().err
