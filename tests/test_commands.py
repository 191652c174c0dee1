"""The commands from end to end on tiny videos: train, resume, evaluate, score; and every bad input as one line.

The first run compiles a training step and the evaluation; later ones find them in the cache that conftest.py names.
"""

import base64
import contextlib
import dataclasses
import io
import json
import math
import os
import re
import shutil
import signal
import sys
import time
import zipfile
from pathlib import Path

import cv2
import jax
import numpy as np
import optax
import pytest
import safetensors.numpy
from PIL import Image

import cffm_jax
from benchmarks.gpu.costs import collectives
from cffm_jax.checkpoints.by_path import open_checkpoints
from cffm_jax.checkpoints.store import Checkpoints
from cffm_jax.commands.eval import eval_command
from cffm_jax.commands.train import train_command
from cffm_jax.config import Config, TrainConfig
from cffm_jax.data.prepare import command as prepare
from cffm_jax.data.synthetic import generate
from cffm_jax.drawing.palette import palette
from cffm_jax.errors import InputError
from cffm_jax.evaluation import mask_folder
from cffm_jax.evaluation.beside import require_same_data
from cffm_jax.models.create import build_model
from cffm_jax.models.variables import init_variables, variable_shapes
from cffm_jax.rules import with_changes
from cffm_jax.runtime.command_line import run_command
from cffm_jax.settings import config_from_dict, load_config
from cffm_jax.training import setup
from cffm_jax.training.ahead import BatchesAhead
from cffm_jax.training.optim import make_optimizer
from cffm_jax.training.sharding import init_state, make_mesh
from cffm_jax.training.step import make_train_step

from helpers.runs import (
    CONFIG,
    DEPTHS,
    FIGURES,
    FRAMES,
    SIZE,
    STEPS,
    TINY,
    WIDTH,
    K,
    Refusal,
    files,
    final_variables,
    finished,
    leaves,
    log_lines,
    seeing,
    started,
    train_argv,
    zeros,
)


@pytest.fixture(scope="module")
def evaluated(trained, tmp_path_factory):
    """(folder of masks, JSON, what the command printed) of an evaluation without a config file; the report is beside
    the masks."""
    folder = tmp_path_factory.mktemp("eval")
    argv = ["--checkpoint", trained[0], "--save_predictions", folder / "masks", "--output", folder / "figures.json"]
    argv += ["--report", folder / "report"]
    # In this process, where later evaluations need not trace the network anew.
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert run_command(eval_command, [str(part) for part in argv]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["figures.json", "masks", "report"]
    return folder / "masks", json.loads((folder / "figures.json").read_text()), out.getvalue()


@pytest.fixture(scope="module")
def exported():
    """(model, variables, the same as a state dict in torch layout) of a CFFM-B0 of all its blocks, without an
    initialisation to compile."""
    model, rng = cffm_jax.create_model("cffm_b0", K), np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), variable_shapes(model))
    return model, variables, cffm_jax.export_state_dict(variables, model)


# --- training


def test_training_leaves_checkpoints_log_and_config(trained, data):
    workdir, _ = trained
    there = ["checkpoints", "config.json", "log.jsonl", "run.jsonl", "tensorboard"]
    assert sorted(path.name for path in workdir.iterdir()) == there
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["2", "4", "miou.json"]
    assert [path.stat().st_size > 100 for path in (workdir / "tensorboard").iterdir()] == [True]
    stored = config_from_dict(json.loads((workdir / "config.json").read_text()), "config.json")
    with open_checkpoints(workdir) as checkpoints:
        assert checkpoints.config(2) == checkpoints.config(4) == stored
    default = load_config(CONFIG)
    # The run was made once for all processes of the suite, and copied.
    assert (
        stored.workdir.endswith("shared_trained/run") and stored.data.root == str(data) and stored.train.steps == STEPS
    )
    assert stored.model == dataclasses.replace(default.model, depths=DEPTHS, width=WIDTH)
    assert stored.eval == dataclasses.replace(default.eval, devices=1)
    lines = log_lines(workdir, "train")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        assert math.isfinite(line["loss"]) and math.isfinite(line["gradient_norm"]) and line["rate"] > 0
        assert line["loss"] == pytest.approx(line["clip_loss"] + 0.5 * line["frame_loss"], rel=1e-5)
    line = log_lines(workdir, "eval")[0]
    assert line["step"] == STEPS and line["CFFM/frames"] == 2 * FRAMES and 0 <= line["CFFM/miou"] <= 1


def test_training_leaves_what_tells_about_it(trained):
    """Where the time went, what it was started with, and pictures."""
    workdir, _ = trained
    time = log_lines(workdir, "time")[-1]
    assert time["compilations"] == 1 and 0 < time["goodput"] < 1 and time["step_bytes"] > 1e6
    assert all(line["tflops"] > 0 and "mfu" not in line for line in log_lines(workdir, "train")[1:])
    (start,) = map(json.loads, (workdir / "run.jsonl").read_text().splitlines())
    assert start["config"] == json.loads((workdir / "config.json").read_text())
    assert start["command"].startswith("train.py --config") and not start["deterministic"]
    events = b"".join(path.read_bytes() for path in (workdir / "tensorboard").iterdir())
    assert events.count(b"\x89PNG") == 2  # Of two videos.


def test_training_changes_the_weights(trained):
    _, first = final_variables(trained[0], 2)
    _, last = final_variables(trained[0], 4)
    first, last = leaves(first), leaves(last)
    assert first.keys() == last.keys()
    moved = [name for name in first if not np.array_equal(first[name], last[name])]
    assert len(moved) > 0.9 * len(first) and all(np.isfinite(array).all() for array in last.values())


def test_training_prints_the_final_table(trained):
    lines = trained[1].splitlines()
    assert "4 training videos, 8 classes, 1 device(s), weights: random" in lines[0]
    assert re.fullmatch(r"memory: a step takes 0\.\d\d GB, the machine has \d+\.\d\d GB", lines[1])
    assert lines[2] == "step 4:" and "mIoU" in lines[3] and "VC16" in lines[3]
    assert lines[5].split()[0] == "CFFM" and lines[6].startswith("per-frame (SegFormer)")


def test_same_command_again_is_done_already(trained, data, capfd):
    workdir, out = trained
    before = files(workdir / "checkpoints")
    assert run_command(train_command, train_argv(data, workdir)) == 0
    again = capfd.readouterr().out
    assert f"{workdir} has done its {STEPS} steps already" in again and "memory:" not in again
    assert files(workdir / "checkpoints") == before and len(log_lines(workdir, "train")) == STEPS
    assert out.endswith(f"{workdir} has done its {STEPS} steps\n")
    assert "\n".join(out.splitlines()[3:7]) in again


@pytest.mark.long
def test_killed_and_resumed_equals_unbroken(trained, data, tmp_path, capfd):
    """To the bit: a change of one in the last place would not stay that small through Adam."""
    workdir = tmp_path / "run"
    log = workdir / "log.jsonl"

    def end(number, moment):
        with (tmp_path / "said").open("w") as said:
            process = started("train.py", *train_argv(data, workdir), stdout=said, stderr=said)
            try:
                while not moment():
                    assert process.poll() is None, (tmp_path / "said").read_text()
                    time.sleep(0.02)
                process.send_signal(number)
                return process.wait(30)
            finally:
                process.kill()
                process.wait()

    assert end(signal.SIGKILL, (workdir / "checkpoints" / "2").is_dir) == -signal.SIGKILL
    shutil.rmtree(workdir / "checkpoints" / "4", ignore_errors=True)  # If it was faster than the signal.
    log.unlink()
    assert end(signal.SIGTERM, lambda: log.exists() and '{"step": 3' in log.read_text()) == 143
    assert (tmp_path / "said").read_text().rstrip().endswith("the same command goes on from there")
    shutil.rmtree(workdir / "checkpoints" / "4", ignore_errors=True)
    assert run_command(train_command, train_argv(data, workdir)) == 0
    assert str(workdir) in capfd.readouterr().out.splitlines()[0]
    assert [line["step"] for line in log_lines(workdir, "train")][-2:] == [3, 4]
    _, resumed = final_variables(workdir)
    _, unbroken = final_variables(trained[0])
    resumed, unbroken = leaves(resumed), leaves(unbroken)
    assert resumed.keys() == unbroken.keys()
    for name, array in unbroken.items():
        np.testing.assert_array_equal(resumed[name], array, err_msg=name)
    last, expected = log_lines(workdir, "train")[-1], log_lines(trained[0], "train")[-1]
    assert last["step"] == expected["step"] and last["rate"] == expected["rate"]
    assert last["loss"] == pytest.approx(expected["loss"], rel=1e-5)


@pytest.mark.long
def test_short_videos_train_from_another_run(trained, data, tmp_path, capfd):
    """Videos of 1, 2, 5 and 9 frames: all shorter than the offsets need; weights from a run's folder."""
    root = tmp_path / "short"
    shutil.copytree(data, root)
    for video, length in zip(sorted((root / "data").iterdir()), (1, 2, 5, 9, 2, 12)):
        for part in ("origin", "mask"):
            for path in sorted((video / part).iterdir())[length:]:
                path.unlink()
    argv = train_argv(root, tmp_path / "run", "--init.model", trained[0])
    assert run_command(train_command, argv) == 0
    out = capfd.readouterr().out
    assert f"from {trained[0]} (cffm_jax run, step {STEPS})" in out
    assert "Videos of at most 16 frames (2 here) count in VC8 Eq. 9, VC16 Eq. 9, CC8, CC16 alone." in out
    assert log_lines(tmp_path / "run", "train")[-1]["step"] == STEPS


@pytest.mark.long
def test_one_and_eight_devices_take_the_same_step():
    """One step of plain descent, so that the parameters tell the gradients; 1e-5 of each array's largest value."""
    config = dataclasses.replace(Config(), train=TrainConfig(batch_size=8))
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, name="cffm_b0", num_classes=K))
    model = build_model(config.model).clone(depths=(1, 1, 1, 1))
    variables = jax.device_get(init_variables(model, jax.random.key(0)))
    rng = np.random.default_rng(0)
    labels = rng.choice(np.array([*range(K), 255], np.uint8), (8, 4, 4, 4))
    batch = {
        "frames": rng.integers(0, 256, (8, 4, 64, 64, 3), np.uint8),
        "labels": labels.repeat(16, 2).repeat(16, 3),
        "size": np.array([[64, 64]] * 7 + [[48, 64]], np.int32),
    }
    results = []
    for devices in (1, 8):
        mesh = make_mesh(devices)
        optimizer = optax.sgd(1e-3)
        state = init_state(model, variables, optimizer, mesh)
        step = make_train_step(model, optimizer, mesh, frame_loss_weight=0.5)
        sent = next(BatchesAhead(iter([batch, batch]), mesh))
        assert len(sent["frames"].sharding.device_set) == devices
        # Twice as fast to compile; how the work is shared is decided before the backend's optimisations.
        compiled = step.lower(state, sent, jax.random.key(1)).compile({"xla_backend_optimization_level": 0})
        moved = collectives(compiled.as_text())
        state, metrics = compiled(state, sent, jax.random.key(1))
        results.append((leaves(state.variables), {name: float(value) for name, value in metrics.items()}))
        if devices == 1:
            assert not moved
        else:
            assert_only_what_is_needed(moved, variables)
    (one, one_metrics), (eight, eight_metrics) = results
    for name, value in one_metrics.items():
        assert eight_metrics[name] == pytest.approx(value, rel=1e-5), name
    start = leaves(variables)
    assert one_metrics["gradient_norm"] > 0.1 and any(np.abs(one[name] - start[name]).max() > 1e-4 for name in one)
    for name, array in one.items():
        np.testing.assert_allclose(eight[name], array, rtol=0, atol=1e-5 * max(1.0, np.abs(array).max()), err_msg=name)


def assert_only_what_is_needed(moved, variables):
    """Gradients, BatchNorm's sums and the loss, all reduced and nothing else; no activation leaves its device."""
    assert moved.keys() == {"all-reduce"}
    elements = sum(moved["all-reduce"]) / 4
    params = {name: array.size for name, array in leaves(variables["params"]).items()}
    # The decoder merges its fuse layer with the projections: the merged gradient is reduced in the place of both.
    merged = params["['decoder']['fuse']"]
    # One block reads five maps through one layer for query, key and value, whose gradients XLA adds afterwards here.
    five = 4 * sum(params[f"['local_0']['qkv']['{name}']"] for name in ("kernel", "bias"))
    needed = sum(params.values()) - merged + five
    assert needed <= elements <= 1.03 * needed  # Windows' biases before they are gathered into their tables.
    assert len(moved["all-reduce"]) <= 8  # Joined: the gradients do not go one by one.


# --- initial weights


def assert_same(found, expected):
    found, expected = leaves(found), leaves(expected)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def started_from(network, **init):
    config = load_config(CONFIG)
    config = dataclasses.replace(config, init=dataclasses.replace(config.init, **{k: str(v) for k, v in init.items()}))
    return setup.initial_weights(network, config, jax.random.key(5))[:2]


def test_init_encoder(exported, tmp_path):
    model, variables, state_dict = exported
    encoder = {k.removeprefix("backbone."): v for k, v in state_dict.items() if k.startswith("backbone.")}
    np.savez(tmp_path / "mit_b0.npz", **encoder)
    # Outside the encoder a smaller one starts with the same numbers: those of the runs here, whose draws are compiled.
    model = model.clone(width=WIDTH)
    random, origin = started_from(model.clone(depths=DEPTHS))
    assert origin == "random"
    count = sum(value.size for value in encoder.values())
    path = tmp_path / "mit_b0.npz"
    found, origin = started_from(model, encoder=path)
    assert origin.startswith(f"encoder ({count:,} parameters) from {path} (NVlabs MiT (ImageNet)); random: decoder")
    assert "non-commercial" in origin
    assert_same(found, {**random, "params": {**random["params"], "encoder": variables["params"]["encoder"]}})


def test_init_model(trained, exported, tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(exported[2], path)
    run = final_variables(trained[0])
    for source, whose, (model, variables) in (
        (path, "CFFM of its authors", exported[:2]),
        (trained[0], f"cffm_jax run, step {STEPS}", run),
    ):
        found, origin = started_from(model, model=source)
        parts = {"encoder", "decoder", "frame classifier", "clip classifier", "local blocks"}
        assert set(origin.split(" (")[0].split(", ")) == parts
        count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        assert (
            f"({count:,} parameters) from {source} ({whose})" in origin and "random" not in origin.split("licence")[0]
        )
        assert_same(found, variables)


# --- evaluation


def test_evaluation_repeats_the_figures_of_training(trained, evaluated):
    _, result, out = evaluated
    assert result["step"] == STEPS and result["checkpoint"] == str(trained[0]) and result["changed"] == {}
    assert list(result["rows"]) == ["CFFM", "per-frame (SegFormer)"]
    logged = log_lines(trained[0], "eval")[0]
    for row, figures in result["rows"].items():
        for name in FIGURES:
            assert figures[name] == pytest.approx(logged[f"{row}/{name}"], abs=2e-3), (row, name)
        assert figures["videos"] == 2 and figures["frames"] == 2 * FRAMES
    assert "mIoU" in out and "grass" in out and "val_0001" in out


@pytest.mark.long
def test_evaluation_of_records_with_a_config_file(trained, evaluated, data, tmp_path, capfd):
    assert run_command(prepare.main, [str(data), str(tmp_path / "records"), "--splits", "val"]) == 0
    argv = ["--checkpoint", str(trained[0]), "--config", CONFIG, *TINY, "--data.layout", "records"]
    argv += ["--data.root", str(tmp_path / "records" / "vspw" / "1.0.0"), "--save_predictions", str(tmp_path / "masks")]
    argv += ["--output", str(tmp_path / "new" / "figures.json"), "--pictures", str(tmp_path / "pictures")]
    assert run_command(eval_command, argv) == 0
    assert json.loads((tmp_path / "new" / "figures.json").read_text())["rows"] == evaluated[1]["rows"]
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["overlay.mp4", "sheet.png"]
    assert "figures written to" in capfd.readouterr().out
    masks = sorted(evaluated[0].rglob("*.png"))
    for path in masks:
        assert (tmp_path / "masks" / path.relative_to(evaluated[0])).read_bytes() == path.read_bytes()
    assert len(masks) == 2 * FRAMES


def test_evaluation_of_the_first_videos_with_a_stored_config(trained, evaluated, tmp_path, capfd):
    workdir = tmp_path / "run"
    shutil.copytree(trained[0], workdir)
    assert run_command(eval_command, ["--checkpoint", str(workdir), "--eval.max_videos", "1"]) == 0
    found = json.loads((workdir / "eval.json").read_text())
    (video,) = found["rows"]["CFFM"]["per_video"]
    assert found["changed"] == {"eval.max_videos": 1}
    assert capfd.readouterr().out.splitlines()[0].endswith(" val, with --eval.max-videos 1")
    assert video == evaluated[1]["rows"]["CFFM"]["per_video"][0]


def test_saved_predictions_are_indexed_pngs(evaluated, data):
    paths = sorted(evaluated[0].rglob("*.png"))
    frames = sorted((data / "data").glob("val_*/origin/*.jpg"))
    assert [(p.parent.name, p.stem) for p in paths] == [(f.parents[1].name, f.stem) for f in frames]
    for path in paths:
        with Image.open(path) as image:
            assert image.mode == "P" and image.size == SIZE[::-1]
            assert np.asarray(image).max() < K
            colours = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
        np.testing.assert_array_equal(colours[:K], palette(K)[:K])


def test_report_of_the_evaluation(trained, evaluated, data):
    masks, result, out = evaluated
    path = masks.with_name("report") / "index.html"
    assert [file.name for file in path.parent.iterdir()] == [path.name] and f"report written to {path}" in out
    text = path.read_text()
    for row in result["rows"].values():
        assert all(f">{100 * row[name]:.2f}<" in text for name in FIGURES)
    assert f"cffm_b0 on {data} val" in text and f"cffm_jax run, step {STEPS}" in text and str(trained[0]) in text
    assert set(re.findall(r'alt="([^",]+), frame \d+ of val_000[01]"', text)) == {*result["rows"], "ground truth"}
    # The masks shown are those that were written: twice as large, in the classes' colours.
    found = re.search(r'<img src="data:image/png;base64,([^"]+)" alt="CFFM, frame (\d+) of ([^"]+)"', text)
    encoded, time, video = found.groups()
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        colours = np.asarray(image.convert("RGB"))[::2, ::2]
    with Image.open(masks / video / f"{int(time):08}.png") as image:
        np.testing.assert_array_equal(colours, palette(K)[np.asarray(image)])


def score_argv(data, masks, *more):
    return ["--predictions", str(masks), "--config", CONFIG, "--data.root", str(data), *map(str, more)]


def test_scores_of_the_saved_predictions_are_the_models(evaluated, data, tmp_path, capfd):
    masks, result, _ = evaluated
    assert run_command(eval_command, score_argv(data, masks, "--report", tmp_path / "report")) == 0
    said = capfd.readouterr().out
    assert f"figures written to {masks}.json" in said and str(tmp_path / "report" / "index.html") in said
    reports = (tmp_path / "report" / "index.html", masks.with_name("report") / "index.html")
    shown = [
        re.findall(f'src="([^"]+)" alt="{row}, ', path.read_text())
        for row, path in zip(("predictions", "CFFM"), reports)
    ]
    assert shown[0] == shown[1] and len(shown[0]) == 6
    output = Path(f"{masks}.json")
    found = json.loads(output.read_text())["rows"]["predictions"]
    output.unlink()
    assert found == result["rows"]["CFFM"]


@pytest.mark.long
def test_sources_side_by_side(trained, evaluated, data, tmp_path, capfd, refused):
    """Weights and their saved masks are one source: the figures of the evaluation by itself, in any order, and no
    difference; the page and the pictures have a row each."""
    masks, result, _ = evaluated
    argv = ["--checkpoint", trained[0], "--output", tmp_path / "x.json", "--report", tmp_path / "report"]
    argv += ["--name", "ours", "--beside", f"again={trained[0]}", masks]
    assert run_command(eval_command, [*map(str, argv), "--pictures", str(tmp_path / "pictures")]) == 0
    assert f"beside it masks: {masks}\n" in capfd.readouterr().out
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["beside"] == {"again": str(trained[0]), "masks": str(masks)}
    own, *parts = result["rows"]
    assert list(found["rows"]) == ["ours", *parts, "again", "masks"]
    assert all(found["rows"][name] == result["rows"][own] for name in ("ours", "again", "masks"))
    assert all(found["rows"][name] == result["rows"][name] for name in parts)
    text = (tmp_path / "report" / "index.html").read_text()
    assert set(re.findall(r'alt="([^",]+), frame \d+ of val_000[01]"', text)) == {*found["rows"], "ground truth"}
    masks_of = [re.findall(f'src="([^"]+)" alt="{name}, ', text) for name in ("ours", "again", "masks")]
    assert masks_of[0] == masks_of[1] == masks_of[2] and len(masks_of[0]) == 6
    section = text.split('<section id="side-by-side">')[1].split("</section>")[0]
    assert set(re.findall(r">([+\N{MINUS SIGN}][\d.]+)<", section)) == {"+0.00"}
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["overlay.mp4", "sheet.png"]

    changed = tmp_path / "changed"
    for path in masks.rglob("*.png"):
        (changed / path.parent.name).mkdir(parents=True, exist_ok=True)
        Image.fromarray((np.asarray(Image.open(path)) + 1) % K).save(changed / path.parent.name / path.name)
    rows = []
    for first, other in ((masks, changed), (changed, masks)):
        more = ("--name", first.name, "--beside", other, "--output", tmp_path / "y.json")
        assert run_command(eval_command, score_argv(data, first, *more)) == 0
        rows.append(json.loads((tmp_path / "y.json").read_text())["rows"])
    assert rows[0] == rows[1] and list(rows[0]) == list(rows[1])[::-1] == ["masks", "changed"]
    assert rows[0]["masks"] == result["rows"][own] != rows[0]["changed"]

    argv = ["--checkpoint", trained[0], "--output", tmp_path / "z.json", "--beside"]
    refused(eval_command, [*argv, tmp_path / "none"], tmp_path / "none", "no such file or folder")
    refused(eval_command, [*argv, f"{own}={masks}"], f"names a source {own!r}, as a row is called already")
    refused(eval_command, [*argv, masks, f"masks={trained[0]}"], "names two sources 'masks'", "NAME=PATH")
    refused(eval_command, [*argv, tmp_path], tmp_path, "holds no masks of these videos")
    refused(eval_command, score_argv(data, masks, "--beside", trained[0]), "or, with --checkpoint, weights")
    first = Config()
    for name, value in {"data.root": "films", "data.eval_split": "test", "eval.max_videos": 3}.items():
        with pytest.raises(InputError, match=f"b: is evaluated with {name} {value!r}, a with "):
            require_same_data(with_changes(first, [(name, value)]), "b", first, "a")
    require_same_data(with_changes(first, [("data.root", f"./{first.data.root}/")]), "b", first, "a")


def test_figures_are_kept_when_nobody_reads_what_is_printed(evaluated, data, tmp_path, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    output = tmp_path / "first.json"
    argv = score_argv(data, evaluated[0], "--eval.max_videos", 1, "--output", output)
    with monkeypatch.context() as within, open(writing, "w", buffering=1) as gone:
        within.setattr(sys, "stdout", gone)
        assert run_command(eval_command, argv) == 141
    (video,) = json.loads(output.read_text())["rows"]["predictions"]["per_video"]
    assert video == evaluated[1]["rows"]["CFFM"]["per_video"][0]


def test_predictions_need_no_network(evaluated, data, tmp_path, refused):
    for more in (["--pictures", tmp_path / "x"], ["--save-predictions", tmp_path / "x"], ["--raw"]):
        said = f"{more[0]}: given together with --predictions"
        refused(eval_command, score_argv(data, evaluated[0], *more), said)
    refused(eval_command, score_argv(data, evaluated[0], "--eval.max_videos", -1), "--eval.max-videos: is -1")


@pytest.mark.long
def test_checkpoint_of_two_devices_is_evaluated_on_one(trained, tmp_path):
    with open_checkpoints(trained[0]) as checkpoints:
        config = checkpoints.config(STEPS)
    model, variables = final_variables(trained[0])
    state = init_state(model, variables, make_optimizer(config.optim, STEPS, model), make_mesh(2))
    with Checkpoints(tmp_path / "run", create=True) as checkpoints:
        checkpoints.save(state.replace(step=jax.numpy.int32(7)), config)
        checkpoints.wait()
    argv = ["--checkpoint", tmp_path / "run", "--eval.max_videos", 1]
    status, out, err = finished("eval.py", *argv, env=seeing(1))
    assert status == 0, err
    assert f"cffm_jax run, step 7, {tmp_path / 'run'}" in out


# --- bad input


@pytest.fixture
def broken(data, tmp_path):
    """A copy of the dataset to break."""
    return Path(shutil.copytree(data, tmp_path / "broken"))


def remove_root(root):
    shutil.rmtree(root)
    return root, "there is no such folder"


def remove_data_folder(root):
    (root / "data").rename(root / "frames")
    return root, "has no data folder inside"


def empty_split(root):
    (root / "train.txt").write_text("\n")
    return root / "train.txt", "lists no video"


def remove_split(root):
    (root / "train.txt").unlink()
    return root / "train.txt", "cannot be read"


def remove_eval_split(root):
    (root / "val.txt").unlink()
    return root / "val.txt", "cannot be read"


def remove_video(root):
    shutil.rmtree(root / "data" / "train_0002")
    return root / "data" / "train_0002", "missing"


def remove_frames(root):
    for path in (root / "data" / "train_0002" / "origin").iterdir():
        path.unlink()
    return root / "data" / "train_0002" / "origin", "holds no .jpg frame"


def remove_mask(root):
    (root / "data" / "train_0001" / "mask" / "00000004.png").unlink()
    return root / "data" / "train_0001" / "origin" / "00000004.jpg", "has no mask"


def remove_eval_mask(root):
    (root / "data" / "val_0001" / "mask" / "00000004.png").unlink()
    return root / "data" / "val_0001" / "origin" / "00000004.jpg", "has no mask"


def shrink_masks(root):
    for path in root.glob("data/train_*/mask/*.png"):
        Image.new("L", (90, 64), 1).save(path)
    return ".png", "is 90x64 but its frame is 96x64"


def label_out_of_range(root):
    for path in root.glob("data/train_*/mask/*.png"):
        Image.new("L", SIZE[::-1], K + 3).save(path)
    return ".png", f"holds label {K + 3} but the model has {K} classes"


def truncate_frames(root):
    for path in root.glob("data/train_*/origin/*.jpg"):
        path.write_bytes(path.read_bytes()[:-200])
    return ".jpg", "is truncated"


def frames_are_text(root):
    for path in root.glob("data/train_*/origin/*.jpg"):
        path.write_text("no image")
    return ".jpg", "no image"


FAULTS = [
    remove_root, remove_data_folder, empty_split, remove_split, remove_eval_split, remove_video, remove_frames,
    remove_mask, remove_eval_mask, shrink_masks, label_out_of_range, truncate_frames, frames_are_text,
]  # fmt: skip


@pytest.mark.parametrize("spoil", FAULTS)
def test_training_data_at_fault(broken, tmp_path, refused, spoil):
    said = spoil(broken)
    refused(train_command, train_argv(broken, tmp_path / "run"), *said)


@pytest.mark.long
def test_training_data_at_fault_in_loader_processes(broken, tmp_path):
    """Through the real command: the faults of other processes arrive as the same one line."""
    said = truncate_frames(broken)
    argv = train_argv(broken, tmp_path / "run", "--data.workers", 1)
    status, out, err = finished("train.py", *argv)
    Refusal.check(status, err, *said)
    assert not out and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--train.stepz", "4"], ["--train.stepz", "is no option or config key", "did you mean --train.steps?"]),
        (["--steps", "4"], ["--steps", "is no option"]),
        (["--train.steps", "many"], ["train.steps", "many"]),
        (["--train.steps", "2.5"], ["train.steps", "2.5"]),
        (["--train.steps", "0"], ["--train.steps", "is 0"]),
        (["--train.keep", "0"], ["--train.keep", "is 0", "at least 1"]),
        (["--train.bad_steps", "0"], ["--train.bad-steps", "is 0", "at least 1"]),
        (["--optim.clip_norm", "-1"], ["--optim.clip-norm", "is -1", "0 for none"]),
        (["--model.dtype", "float8"], ["model.dtype", "float8"]),
        (["--model.name", "cffm_b9"], ["--model.name", "unknown model 'cffm_b9'"]),
        (["--model.num_classes", "-1"], ["--model.num-classes", "is -1"]),
        (["--model.num_classes", "255"], ["--model.num-classes", "is 255"]),
        (["--data.crop", "64", "60"], ["--data.crop", "multiples of 32"]),
        (["--data.verify"], ["manifest.sha256: cannot be read", "cffm_jax.data.check"]),
        (["--data.offsets", "6", "3"], ["--data.offsets", "is 6 3", "give 3 numbers"]),
        (["--data.offsets", "3", "6", "9"], ["--data.offsets", "is 3 6 9", "the largest first"]),
        (["--data.threads", "0"], ["--data.threads", "at least 1"]),
        (["--eval.chunk", "-1"], ["--eval.chunk", "is -1"]),
        (["--train.devices", "8"], ["--train.batch-size", "2 clips do not divide over 8 devices"]),
        (["--train.devices", "9"], ["--train.devices", "9 asked for, 8 here"]),
        (["--init.model", "a", "--init.encoder", "b"], ["--init.encoder", "together with --init.model"]),
        (["--init.model", "nowhere.safetensors"], ["nowhere.safetensors", "no such file"]),
        (["--init.encoder", "README.txt"], ["README.txt", "no such file"]),
    ],
    ids=lambda value: "_".join(value[:3]) if value[0].startswith("--") and len(value) < 5 else "",
)
def test_options_at_fault(data, tmp_path, refused, more, said):
    refused(train_command, train_argv(data, tmp_path / "run", *more), *said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("from cffm_jax.config import *\ndef get_config():\n    return Config(trane=1)\n", "trane"),
        ("from cffm_jax.config import *\ndef get_config():\n    return 3\n", "returned int, not Config"),
        ("def get_config(:\n", "invalid syntax"),
        ("x = 1\n", "get_config"),
        ("import nothing_of_that_name\n", "nothing_of_that_name"),
    ],
)
def test_config_files_at_fault(tmp_path, refused, text, said):
    path = tmp_path / "config.py"
    path.write_text(text)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        refused(train_command, ["--config", path, "--workdir", tmp_path / "run"], path, said)
    finally:
        sys.dont_write_bytecode = before


def test_config_is_missing(tmp_path, refused):
    refused(train_command, ["--workdir", tmp_path / "run"], "--config", "is missing")
    refused(train_command, ["--config", tmp_path / "none.py"], tmp_path / "none.py", "no such config file")


def test_a_benchmarks_config_asks_for_imagenet_weights(data, tmp_path, refused):
    argv = ["--config", "b1_vspw", "--data.root", data, "--workdir", tmp_path / "run"]
    said = "--init.encoder: is missing: the config trains from ImageNet weights of b1; name their file, or give "
    for more in ([], ["--init.encoder", ""]):
        refused(train_command, [*argv, *more], said + "--init.encoder none to train from random weights")
    for more in (["--init.encoder", "none"], ["--init.model", "run"]):
        refused(train_command, [*argv, *more, "--data.root", tmp_path], "has no data folder inside")
    refused(train_command, [*argv, "--init.encoder", "x", "--init.model", "y"], "together with --init.model")


def test_workdir_that_cannot_be_made(data, tmp_path, refused, monkeypatch):
    monkeypatch.setattr(setup, "init_variables", lambda model, key: zeros(model))
    (tmp_path / "file").write_text("")
    refused(train_command, train_argv(data, tmp_path / "file" / "run"), tmp_path / "file" / "run", "cannot be made")


@pytest.mark.parametrize(("option", "value"), [("--model.num_classes", 7), ("--model.name", "cffm_b1")])
def test_checkpoint_of_another_model(trained, data, plain, tmp_path, refused, option, value):
    workdir = shutil.copytree(trained[0], tmp_path / "run")
    said = (workdir, f"is a checkpoint with {option.removeprefix('--')}")
    more = [option, value, "--train.seed", 1, "--train.log_every", 2]
    asked = (
        workdir,
        f"is a run with {option.removeprefix('--')}",
        "train.seed 0, not 1; give",
        "--train.seed 0 to go on",
    )
    refused(train_command, train_argv(data, workdir, *more), *asked)
    refused(eval_command, ["--checkpoint", workdir, option, value], *said)
    refused(eval_command, ["--checkpoint", workdir, "--config", CONFIG, "--data.root", data, option, value], *said)


def test_weights_of_another_model(trained, exported, data, tmp_path, refused):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(exported[2], path)
    for source, depths, width in ((path, (2, 2, 2, 2), 256), (trained[0], DEPTHS, WIDTH)):
        more = ("--model.depths", *depths, "--model.width", width, "--init.model", source)
        argv = train_argv(data, tmp_path / "run", *more, "--model.name", "cffm_b1")
        refused(train_command, argv, source, "holds cffm_b0, which does not fit cffm_b1", "its encoder is b0")
        argv = train_argv(data, tmp_path / "run", *more, "--model.blocks", 2)
        refused(train_command, argv, source, "params/local_1", "is not there")
    path.write_bytes(path.read_bytes()[:-500])
    refused(train_command, train_argv(data, tmp_path / "run", "--init.model", path), path, "cannot be read")
    np.savez(tmp_path / "mit.npz", **{"block1.0.attn.q.weight": np.zeros((3, 3), np.float32)})
    argv = train_argv(data, tmp_path / "run", "--init.encoder", tmp_path / "mit.npz")
    refused(train_command, argv, tmp_path / "mit.npz", "NVlabs MiT (ImageNet) of no size that is known")


def test_no_checkpoint(tmp_path, refused):
    refused(eval_command, [], "--checkpoint", "give either this or --predictions")
    refused(eval_command, ["--checkpoint", tmp_path, "--predictions", tmp_path], "give either this or --predictions")
    refused(eval_command, ["--checkpoint", tmp_path / "none"], tmp_path / "none", "no such file or folder")
    (tmp_path / "empty").mkdir()
    refused(eval_command, ["--checkpoint", tmp_path / "empty"], tmp_path / "empty", "neither checkpoints nor weights")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    refused(eval_command, ["--checkpoint", tmp_path / "run"], "holds no finished checkpoint")


def test_damaged_checkpoint(trained, data, tmp_path, refused):
    workdir = Path(shutil.copytree(trained[0], tmp_path / "run"))
    shutil.rmtree(workdir / "checkpoints" / "4" / "variables")
    refused(eval_command, ["--checkpoint", workdir], workdir / "checkpoints" / "4", "is damaged", "name another, of 2")
    refused(eval_command, ["--checkpoint", workdir / "checkpoints" / "3"], "there is no such checkpoint")


def test_evaluation_outputs_that_cannot_be_written(trained, tmp_path, refused):
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("")
    argv = ["--checkpoint", trained[0]]
    for output in (tmp_path / "file" / "x.json", tmp_path / "full"):
        refused(eval_command, [*argv, "--output", output], output, "cannot be written")
    refused(eval_command, [*argv, "--save_predictions", tmp_path / "full"], tmp_path / "full", "is not empty")
    refused(
        eval_command, [*argv, "--save_predictions", tmp_path / "file" / "x"], tmp_path / "file", "cannot be written"
    )
    refused(eval_command, [*argv, "--report", tmp_path / "full"], tmp_path / "full", "is not empty")
    refused(eval_command, [*argv, "--report", tmp_path / "file" / "x"], tmp_path / "file" / "x", "cannot be written")


@pytest.mark.long
def test_evaluation_data_at_fault(trained, broken, tmp_path, refused):
    """Found after the first video's masks and pictures were written: they go again."""
    argv = ["--checkpoint", trained[0], "--data.root", broken, "--save_predictions", tmp_path / "masks"]
    argv += ["--output", tmp_path / "x.json", "--pictures", tmp_path / "pictures"]
    path = broken / "data" / "val_0001" / "origin" / "00000013.jpg"
    whole = path.read_bytes()
    path.write_bytes(whole[:-200])
    refused(eval_command, argv, path, "is truncated", progress=True)
    assert cv2.imwrite(str(path), np.zeros((48, 96, 3), np.uint8))
    refused(eval_command, argv, "00000013", "96x48", progress=True)
    path.write_bytes(whole)
    Image.new("L", (60, 64), 1).save(broken / "data" / "val_0001" / "mask" / "00000011.png")
    refused(eval_command, argv, "mask/00000011.png", "give it the size of", progress=True)
    (broken / "classes.json").write_text('["one"]')
    refused(eval_command, argv, broken / "classes.json", "names 1 classes")
    (broken / "val.txt").write_text("val_0000\nelsewhere\n")
    refused(eval_command, argv, broken / "data" / "elsewhere", "missing")


def no_folder(masks):
    shutil.rmtree(masks)
    return masks, "no such folder"


def no_png(masks):
    (masks / "val_0001" / "00000003.png").unlink()
    return masks / "val_0001" / "00000003.png", "prediction is missing"


def wrong_size(masks):
    Image.new("L", (48, 32)).save(masks / "val_0001" / "00000003.png")
    return masks / "val_0001" / "00000003.png", "is 48x32, its mask 96x64"


def no_class(masks):
    Image.fromarray(np.full(SIZE, K, np.uint8)).save(masks / "val_0001" / "00000003.png")
    return masks / "val_0001" / "00000003.png", f"holds the value {K}"


@pytest.mark.parametrize("spoil", [no_folder, no_png, wrong_size, no_class])
def test_predictions_at_fault(evaluated, data, tmp_path, refused, spoil):
    masks = Path(shutil.copytree(evaluated[0], tmp_path / "masks"))
    said = spoil(masks)
    refused(eval_command, score_argv(data, masks), *said, progress=True)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            ["train.py", "--config", CONFIG, "--data.root", "nowhere", "--workdir", "{tmp}/run"],
            "nowhere: there is no such",
        ),
        (["eval.py", "--checkpoint", "{tmp}/run"], "/run: no such file or folder"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_real_commands_refuse(tmp_path, command, said):
    (tmp_path / "mine").write_text("")
    status, out, err = finished(*(part.format(tmp=tmp_path) for part in command))
    Refusal.check(status, err, said)
    assert not out and [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_synthetic_again(data, capfd):
    before = files(data)
    argv = [str(data), "--videos-train", "4", "--videos-val", "2", "--videos-test", "0", "--frames", str(FRAMES)]
    assert run_command(generate.main, [*argv, "--height", str(SIZE[0]), "--width", str(SIZE[1])]) == 0
    assert "nothing to do" in capfd.readouterr().out and files(data) == before
    assert run_command(generate.main, argv) == 2
    assert "made with other options" in capfd.readouterr().err and files(data) == before


# --- submission


@pytest.fixture(scope="module")
def unlabelled(data, tmp_path_factory):
    """The dataset with a test split that has no masks; a video lies in the split file twice as long as the other."""
    root = Path(shutil.copytree(data, tmp_path_factory.mktemp("unlabelled") / "videos"))
    for name, length in (("b", 6), ("a", 3)):
        folder = root / "data" / name / "origin"
        folder.mkdir(parents=True)
        for path in sorted((root / "data" / "val_0001" / "origin").iterdir())[:length]:
            shutil.copy(path, folder)
    (root / "test.txt").write_text("b\na\n")
    return root


def masks_in(path):
    """Name -> u8[H,W], in the zip's order."""
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        found = {}
        for name in file.namelist():
            with Image.open(io.BytesIO(file.read(name))) as image:
                assert image.mode == "L" and image.size == SIZE[::-1]
                found[name] = np.asarray(image)
        assert len(found) == len(file.infolist())
    return found


def test_submission_has_a_mask_for_every_frame(trained, evaluated, unlabelled, tmp_path, capfd):
    more = ["--checkpoint", trained[0], "--data.root", unlabelled, "--save_predictions", tmp_path / "masks"]
    argv = [str(part) for part in more]
    stored, classes = tmp_path / "stored.zip", tmp_path / "classes.zip"
    assert run_command(eval_command, [*argv, "--submission", str(stored)]) == 0
    said = capfd.readouterr().out
    assert f"submission written to {stored}: 9 masks of 2 videos" in said and "mIoU" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["masks", "stored.zip"]
    found = masks_in(stored)
    frames = sorted((unlabelled / "data").glob("[ab]/origin/*.jpg"))
    assert list(found) == [f"{path.parents[1].name}/{path.stem}.png" for path in frames] and len(found) == 9
    for name, mask in found.items():
        with Image.open(tmp_path / "masks" / name) as image:
            np.testing.assert_array_equal(mask, np.asarray(image) + 1)  # As VSPW's own masks: 0 is no class.
        assert 1 <= mask.min() and mask.max() <= K
    # The first frames of a video that was evaluated too, with labels.
    with Image.open(evaluated[0] / "val_0001" / "00000002.png") as image:
        np.testing.assert_array_equal(found["a/00000002.png"], np.asarray(image) + 1)
    # The same of masks on the disk, to the byte; and the classes themselves.
    argv = [str(part) for part in score_argv(unlabelled, tmp_path / "masks")]
    assert run_command(eval_command, [*argv, "--submission", str(tmp_path / "again.zip")]) == 0
    assert (tmp_path / "again.zip").read_bytes() == stored.read_bytes()
    assert run_command(eval_command, [*argv, "--submission", str(classes), "--submission_values", "classes"]) == 0
    for name, mask in masks_in(classes).items():
        np.testing.assert_array_equal(mask + 1, found[name])


@pytest.mark.parametrize("where", [(mask_folder.PredictionWriter, "__call__"), (zipfile.ZipFile, "writestr")])
def test_a_signal_leaves_nothing_of_an_evaluation(trained, unlabelled, tmp_path, capfd, monkeypatch, where):
    """While masks are made, and while they are put together."""
    before = getattr(*where)

    def call(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return before(*arguments)

    monkeypatch.setattr(*where, call)
    argv = ["--checkpoint", trained[0], "--data.root", unlabelled, "--save_predictions", tmp_path / "new" / "masks"]
    argv += ["--pictures", tmp_path / "pictures", "--submission", tmp_path / "masks.zip"]
    assert run_command(eval_command, [str(part) for part in argv]) == 143
    assert capfd.readouterr().err.endswith("stopped by SIGTERM\n") and not list(tmp_path.iterdir())


def test_submissions_that_cannot_be(trained, unlabelled, data, tmp_path, refused):
    (tmp_path / "there.zip").write_text("")
    argv = ["--checkpoint", trained[0], "--data.root", unlabelled, "--submission"]
    refused(eval_command, [*argv, tmp_path / "there.zip"], tmp_path / "there.zip", "is there already")
    refused(eval_command, [*argv, tmp_path / "masks.tar"], tmp_path / "masks.tar", "is no .zip")
    refused(eval_command, [*argv, tmp_path / "there.zip" / "x.zip"], "x.zip", "cannot be written")
    refused(eval_command, [*argv, tmp_path / "x.zip", "--report", tmp_path / "report"], "--report", "needs figures")
    argv = [*argv, tmp_path / "x.zip"]
    for option in ("--data.eval_split", "--split"):
        refused(eval_command, [*argv, option, "none"], unlabelled / "none.txt", "cannot be read")
    refused(eval_command, [*argv, "--data.eval_split", "none", "--split", "val"], "--split: given together with")
    refused(eval_command, [*argv, "--data.root", data], data / "test.txt", "lists no video")
    masks = tmp_path / "masks"
    for path in (unlabelled / "data").glob("[ab]/origin/*.jpg"):
        (masks / path.parents[1].name).mkdir(parents=True, exist_ok=True)
        Image.new("L", SIZE[::-1], K - 1).save(masks / path.parents[1].name / f"{path.stem}.png")
    argv = [*score_argv(unlabelled, masks), "--submission", tmp_path / "x.zip"]
    odd = masks / "a" / "00000001.png"
    Image.new("L", SIZE, 1).save(odd)
    refused(eval_command, argv, odd, "is 64x96, its frame 96x64", progress=True)
    Image.new("L", SIZE[::-1], K).save(odd)
    refused(eval_command, argv, odd, f"holds the value {K}", progress=True)
    odd.unlink()
    refused(eval_command, argv, odd, "prediction is missing")


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ({"report": "x", "save_predictions": "x"}, ["--report: names the same place as --save-predictions"]),
        ({"pictures": "x", "report": "x/report"}, ["--report: lies inside of --pictures"]),
        ({"pictures": "a/../x/y", "save_predictions": "x"}, ["--pictures: lies inside of --save-predictions"]),
        ({"submission": "x/y.zip", "save_predictions": "x"}, ["--submission: lies inside of --save-predictions"]),
        ({"output": "x", "pictures": "./x"}, ["--output: names the same place as --pictures"]),
    ],
)
def test_places_that_hold_each_other(tmp_path, refused, places, said):
    """Before anything else: the checkpoint is not looked at."""
    argv = [part for name, place in places.items() for part in (f"--{name}", tmp_path / place)]
    refused(eval_command, ["--checkpoint", tmp_path / "none", *argv], *said)
