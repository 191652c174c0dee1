"""Frames of other channels than RGB from the files to the masks, through the real commands."""

import json

import numpy as np
import pytest
from PIL import Image

import cffm_jax
from cffm_jax.commands.convert import convert_command
from cffm_jax.commands.eval import eval_command
from cffm_jax.commands.predict import predict_command
from cffm_jax.commands.train import train_command
from cffm_jax.runtime.command_line import run_command

from helpers import runs
from helpers.datasets import classes_of, frame, write_png
from helpers.films import film

CLASSES = 4
NAMES = ("red", "green", "blue", "nir", "depth")
SIZE = (64, 96)


def save(path, values):
    array = np.concatenate([values, values[..., :2] - 1], -1).astype(np.float32)
    array[0, 0] = np.nan  # As where a depth is not known.
    np.save(path, array)


def write(root):
    for name in ("a", "b"):
        (root / name / "frames").mkdir(parents=True)
        for i in range(12):
            values = frame([i, *name.encode()], SIZE) / 255
            save(root / name / "frames" / f"{i:04}", values)
            write_png(root / name / "masks" / f"{i:04}.png", classes_of(values * 255, CLASSES))
    (root / "train.txt").write_text("a\n")
    (root / "val.txt").write_text("b\n")
    return root


def ended_well(*argv):
    status, out, err = runs.finished(*argv)
    assert status == 0, err
    return out, err


@pytest.mark.long
def test_from_the_files_to_the_masks(trained, tmp_path, refused, capfd):
    """The first layer starts from a run in RGB."""

    def predicted(*argv):
        capfd.readouterr()
        assert run_command(predict_command, [*map(str, argv)]) == 0
        return capfd.readouterr().err

    root, workdir = write(tmp_path / "data"), tmp_path / "run"
    out, _ = ended_well("-m", "cffm_jax.data.check", root, "--layout", "folder", "--channels", *NAMES, "--statistics")
    options = out.splitlines()[-1].removeprefix("over train: ").split()
    like = ["--data.layout", "folder", "--model.num_classes", CLASSES]
    more = [*like, *options, "--init.model", trained[0], "--init.encoder", ""]
    out, err = ended_well("train.py", *runs.train_argv(root, workdir, *more))
    assert "first layer from RGB weights: the colours' mean times 3/5 for nir, depth" in out + err
    argv = ["--save_predictions", tmp_path / "saved", "--output", tmp_path / "val.json"]
    assert run_command(eval_command, ["--checkpoint", str(workdir), *map(str, argv)]) == 0
    argv = ["--config", runs.CONFIG, "--data.root", root, *like, *options, "--predictions", tmp_path / "saved"]
    assert run_command(eval_command, [str(each) for each in (*argv, "--report", tmp_path / "report")]) == 0
    rows = json.loads((tmp_path / "val.json").read_text())["rows"]
    assert [row["per_video"][0]["frames"] for row in rows.values()] == [12, 12]
    predicted(root / "b" / "frames", "--checkpoint", workdir, "--output", tmp_path / "out")
    about = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert about["channels"] == list(NAMES) and about["frames"] == 12
    assert {"masks", "overlay.mp4"} <= {path.name for path in (tmp_path / "out").iterdir()}
    blank = root / "b" / "frames" / "0011.npy"
    kept = np.load(blank)
    np.save(blank, np.full_like(kept, np.nan))
    argv = [root / "b" / "frames", "--checkpoint", workdir, "--output", tmp_path / "blank"]
    err = predicted(*argv)
    about = json.loads((tmp_path / "blank" / "prediction.json").read_text())
    assert (about["blank_frames"], about["blank_ranges"], about["damaged_frames"]) == (1, [[11, 11]], 0)
    assert "1 frame has no finite value, so that masks of nothing were made" in err
    argv = [*argv[:-1], tmp_path / "refused", "--refuse-damaged"]
    refused(predict_command, argv, "frame 11 (0011) has no finite value", progress=True)
    status, out, _ = runs.finished("-m", "cffm_jax.data.check", root, "--layout", "folder", "--channels", *NAMES)
    assert status == 1 and "0011.npy" in out and "has no finite value" in out
    np.save(blank, kept)
    # The same from Python.
    weights = cffm_jax.load(workdir)
    frames = map(np.load, sorted((root / "b" / "frames").iterdir()))
    mean = np.array(weights.config.data.mean, np.float32)
    frames = [np.where(np.isfinite(each), each, mean).astype(np.float32) for each in frames]
    for path, mask in zip(sorted((tmp_path / "out" / "masks").iterdir()), weights.stream(frames), strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(path)), mask)
    argv = [workdir, tmp_path / "x.pth", "--to", "torch"]
    refused(convert_command, argv, "is for frames of red, green, blue, nir, depth", "keep our own format")
    video = film(tmp_path / "a.mp4", 3)
    argv = ["--checkpoint", workdir, "--output", tmp_path / "none"]
    refused(predict_command, [video, *argv], video, "is a video in RGB", "give a folder of its frames", progress=True)
    argv = ["--checkpoint", trained[0], "--output", tmp_path / "none"]
    refused(predict_command, [root / "b" / "frames", *argv], "has 5 channels (64x96x5), not 3", progress=True)
    argv = runs.train_argv(root, tmp_path / "other", *like, "--data.channels", *NAMES)
    refused(train_command, argv, "--data.mean", "--statistics")
