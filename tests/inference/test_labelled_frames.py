"""Videos of which only some frames have masks: their masks are those of the whole video, and the commands take them.

The sizes are those of tests/helpers/runs.py, so that the programs are compiled once for all.
"""

import dataclasses
import itertools
import json
import shutil

import cv2
import jax
import numpy as np
import optax
import pytest
from PIL import Image

from cffm_jax import create_model
from cffm_jax.commands.eval import eval_command
from cffm_jax.commands.train import train_command
from cffm_jax.config import Config, DataConfig, EvalConfig, ModelConfig, PrototypeConfig
from cffm_jax.data import decode
from cffm_jax.data.layouts import read as layouts
from cffm_jax.drawing.palette import palette
from cffm_jax.errors import InputError
from cffm_jax.evaluation import predictions, score_tables
from cffm_jax.evaluation.mask_folder import PredictionWriter
from cffm_jax.evaluation.model_scores import evaluate
from cffm_jax.inference import labelled_frames
from cffm_jax.inference.labelled_frames import segment_targets
from cffm_jax.inference.whole_videos import VideoSegmenter
from cffm_jax.metrics.confusion import Confusion
from cffm_jax.models.variables import draw_variables, variable_shapes
from cffm_jax.runtime.command_line import run_command
from cffm_jax.training.sharding import init_state, make_mesh
from cffm_jax.training.step import make_train_step

from helpers.datasets import write_own, write_snippet
from helpers.drawn import lively
from helpers.runs import SIZE, STEPS, K, log_lines, train_argv

CONFIG = Config(model=ModelConfig("cffm_b0", K), data=DataConfig(frame_size=SIZE, threads=2), eval=EvalConfig(chunk=8))
CHOSEN = ((1, 4, 11, 17), (9,))
"""Frames of the two videos that keep their masks."""


def thinned(video, chosen):
    return dataclasses.replace(video, masks=tuple(m if i in chosen else None for i, m in enumerate(video.masks)))


@pytest.fixture(scope="module")
def setting(data):
    """(segmenter, variables, whole videos, the same with few masks)."""
    model = create_model("cffm_b0", K, depths=(1, 1, 1, 1))
    videos = layouts.read_split(str(data), "val")
    sparse = tuple(thinned(video, chosen) for video, chosen in zip(videos, CHOSEN, strict=True))
    return VideoSegmenter(model, CONFIG), lively(model), videos, sparse


@pytest.mark.parametrize("tile_size", [(), pytest.param((64, 64), marks=pytest.mark.long)])
def test_targets_have_the_masks_of_the_whole_video(setting, tile_size):
    segmenter, variables, videos, sparse = setting
    if tile_size:
        config = dataclasses.replace(CONFIG, eval=EvalConfig(chunk=8, tile_size=tile_size, overlap=32))
        segmenter = VideoSegmenter(segmenter.model, config)
    whole = {}
    for chunk in segmenter.segment(variables, videos):
        for row, i in itertools.product(segmenter.rows, range(len(chunk.predictions))):
            whole[chunk.video.name, chunk.start + i, row] = chunk.masks[row][i]
    chunks = list(segment_targets(segmenter, variables, sparse))
    found = [(chunk.video.name, chunk.start) for chunk in chunks]
    assert found == [(video.name, t) for video, chosen in zip(videos, CHOSEN) for t in chosen]
    for chunk in chunks:
        assert list(chunk.masks) == list(segmenter.rows) and chunk.labels.shape == (1, *SIZE)
        labels = decode.read_mask(chunk.video.masks[chunk.start], K, chunk.video.coding)
        np.testing.assert_array_equal(chunk.labels[0], labels)
        for row in segmenter.rows:
            expected = whole[chunk.video.name, chunk.start, row]
            assert (chunk.masks[row][0] != expected).mean() < 2e-3, (row, chunk.start)
        own = chunk.masks[segmenter.rows[0]]
        assert len(np.unique(own)) > 1 and (chunk.start < 3 or (own != chunk.masks[segmenter.rows[-1]]).any())


def test_a_video_that_lacks_few_masks_is_segmented_whole(setting, monkeypatch):
    """It takes as many frames as it has, not four for each mask; the labels of the others are not asked for."""
    segmenter, variables, videos, sparse = setting
    few = thinned(videos[0], [i for i in range(18) if i not in (5, 17)])
    by_clips = [len(clip) for clip in (few.targets, sparse[0].targets)]
    assert by_clips == [16, 4]
    rows = {"clips": Confusion.empty(K), "whole": Confusion.empty(K)}
    for chunk in labelled_frames._of_clips(segmenter, variables, [few]):
        rows["clips"] = rows["clips"].update(chunk.labels, chunk.predictions)
    seen = []
    monkeypatch.setattr(labelled_frames, "_of_clips", lambda *given: seen.extend(given[2]) or ())
    whole = {
        chunk.start + i: mask
        for chunk in segmenter.segment(variables, videos[:1])
        for i, mask in enumerate(chunk.predictions)
    }
    chunks = list(segment_targets(segmenter, variables, [sparse[0], few, sparse[1]]))
    assert seen == [sparse[0], sparse[1]] and tuple(chunk.start for chunk in chunks) == few.targets
    for chunk in chunks:
        np.testing.assert_array_equal(chunk.labels[0], decode.read_mask(few.mask(chunk.start), K, few.coding))
        np.testing.assert_array_equal(chunk.predictions[0], whole[chunk.start])
        rows["whole"] = rows["whole"].update(chunk.labels, chunk.predictions)
    assert abs(rows["whole"].counts - rows["clips"].counts).sum() < 4e-3 * rows["clips"].counts.sum()
    numbered = dataclasses.replace(few, numbers=tuple(range(18)))
    assert not list(segment_targets(segmenter, variables, [numbered])) and seen[-1] == numbered


def test_a_missing_reference_is_replaced_by_the_future_one(setting):
    segmenter, variables, _, (video, _) = setting
    video = thinned(dataclasses.replace(video, masks=(video.masks[1],) * 18), (9,))
    swapped = dataclasses.replace(video, frames=(*video.frames[:3], video.frames[15], *video.frames[4:]))
    without = [i for i in range(18) if i != 3]
    numbered = dataclasses.replace(
        video,
        frames=tuple(video.frames[i] for i in without),
        masks=tuple(video.masks[i] for i in without),
        numbers=tuple(100 + i for i in without),
    )
    three = [next(segment_targets(segmenter, variables, [v])).predictions[0] for v in (numbered, swapped, video)]
    np.testing.assert_array_equal(three[0], three[1])
    assert (three[0] != three[2]).any()


def test_only_labelled_frames_are_scored(setting, tmp_path):
    segmenter, variables, videos, sparse = setting
    with PredictionWriter(tmp_path / "masks", palette(K)) as writer:
        rows = evaluate(segmenter, variables, sparse, watchers=[writer])
    expected = Confusion.empty(K)
    for chunk in segment_targets(segmenter, variables, sparse):
        expected = expected.update(chunk.labels, chunk.predictions)
    figures = rows["CFFM"].figures()
    np.testing.assert_array_equal(rows["CFFM"].confusion().counts, expected.counts)
    assert (figures["videos"], figures["frames"], figures["left_out"]) == (2, 5, 0), "short, yet not left out"
    assert figures["miou"] == expected.miou()
    assert np.isnan([figures[key] for key in ("vc8", "vc16", "vc8_paper")]).all()
    assert score_tables.main_table(rows).splitlines()[2].split()[5:] == ["-"] * 4 + ["2", "5"]
    tree = json.loads(json.dumps(score_tables.to_json(rows, [f"class {i}" for i in range(K)])))
    assert tree["CFFM"]["vc8"] is tree["CFFM"]["vc16_paper"] is tree["CFFM"]["per_video"][0]["vc8"] is None
    written = sorted(path.relative_to(tmp_path / "masks") for path in tmp_path.rglob("*.png"))
    assert [(str(path.parent), int(path.stem)) for path in written] == [
        (video.name, t) for video, chosen in zip(videos, CHOSEN) for t in chosen
    ]
    again = predictions.score_predictions(sparse, tmp_path / "masks", K, ["x"] * K)
    assert again.figures() == pytest.approx(figures, nan_ok=True)


def test_whole_and_sparse_videos_together(setting):
    segmenter, variables, videos, sparse = setting
    rows = evaluate(segmenter, variables, (videos[0], sparse[1]))
    figures = rows["CFFM"].figures()
    assert (figures["videos"], figures["frames"]) == (2, 19)
    alone = evaluate(segmenter, variables, videos[:1])["CFFM"].figures()
    assert (figures["vc8"], figures["vc16_paper"]) == (alone["vc8"], alone["vc16_paper"])
    assert not np.isnan(figures["vc8"])


class Prototypes:
    """Others for each video, or the same for all."""

    def __init__(self, seed=None):
        self._seed = seed

    def of(self, video):
        rng = np.random.default_rng(ord(video.name[-1]) if self._seed is None else self._seed)
        return 3 * rng.normal(size=(100, 256)).astype(np.float32)


@pytest.mark.long
def test_each_target_has_the_prototypes_of_its_video(setting):
    _, variables, _, sparse = setting
    model = create_model("cffmpp_b0", K).clone(depths=(1, 1, 1, 1))
    rng = np.random.default_rng(0)
    shapes = variable_shapes(model)["params"]
    fresh = {name: tree for name, tree in shapes.items() if name not in variables["params"]}
    fresh = jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype(np.float32), fresh)
    variables = {**variables, "params": {**variables["params"], **fresh}}

    def masks(videos, row, seed=None):
        segmenter = VideoSegmenter(model, CONFIG, Prototypes(seed))
        chunks = segment_targets(segmenter, variables, videos)
        return {(chunk.video.name, chunk.start): chunk.masks[row][0] for chunk in chunks}

    # One after the other, and both in one call.
    one, other = masks(sparse, "CFFM++"), masks(sparse[::-1], "CFFM++")
    same, local = masks(sparse, "CFFM++", seed=0), masks(sparse, "CFFM")
    for key, mask in one.items():
        np.testing.assert_array_equal(mask, other[key])
        assert (mask != same[key]).any() and (mask != local[key]).any()
    for chunk in segment_targets(setting[0], variables, sparse):
        assert (local[chunk.video.name, chunk.start] != chunk.predictions[0]).mean() < 2e-3


@pytest.mark.long
def test_causal_prototypes_take_in_every_frame(setting):
    """The masks and the figures of the frames are those of their whole videos."""
    _, _, videos, sparse = setting
    plan = PrototypeConfig(count=4)
    config = dataclasses.replace(CONFIG, eval=EvalConfig(prototypes="causal", chunk=8), prototypes=plan)
    model = create_model("cffmp_b0", K, depths=(1, 1, 1, 1))
    variables, segmenter = lively(model), VideoSegmenter(model, config)
    whole = {}
    for chunk in segmenter.segment(variables, videos):
        whole |= {(chunk.video.name, chunk.start + i): mask for i, mask in enumerate(chunk.predictions)}
    chunks = list(segment_targets(segmenter, variables, sparse))
    assert [(chunk.video.name, chunk.start) for chunk in chunks] == [(v.name, t) for v in sparse for t in v.targets]
    for chunk in chunks:
        np.testing.assert_array_equal(chunk.predictions[0], whole[chunk.video.name, chunk.start])
        labels = decode.read_mask(chunk.video.masks[chunk.start], K, chunk.video.coding)
        np.testing.assert_array_equal(chunk.labels[0], labels)
    figures = evaluate(segmenter, variables, sparse)["CFFM+, causal"].figures()
    assert (figures["videos"], figures["frames"]) == (2, 5)
    gap = dataclasses.replace(sparse[0], numbers=(*range(9), *range(10, 19)))
    with pytest.raises(InputError, match="video val_0000: frame 9 is missing, and causal prototypes need every frame"):
        list(segment_targets(segmenter, variables, [gap]))


def test_a_reference_of_another_size_is_named(setting, tmp_path):
    segmenter, variables, _, (video, _) = setting
    path = str(tmp_path / "odd.jpg")
    cv2.imwrite(path, np.zeros((32, 48, 3), np.uint8))
    odd = dataclasses.replace(video, frames=(*video.frames[:8], path, *video.frames[9:]))
    with pytest.raises(InputError, match=r"odd.jpg: is 48x32, frame .* 96x64"):
        list(segment_targets(segmenter, variables, [odd]))


def test_a_training_step_takes_labels_of_the_target_alone():
    model = create_model("cffm_b0", K, depths=(1, 1, 1, 1))
    mesh, optimizer = make_mesh(1), optax.sgd(1e-3)
    step = make_train_step(model, optimizer, mesh, frame_loss_weight=0.5)
    key = jax.random.key(0)
    batch = {
        "frames": jax.ShapeDtypeStruct((2, 4, 64, 64, 3), np.uint8),
        "labels": jax.ShapeDtypeStruct((2, 1, 64, 64), np.uint8),
        "size": jax.ShapeDtypeStruct((2, 2), np.int32),
    }
    start = jax.eval_shape(lambda key: init_state(model, draw_variables(model, key), optimizer, mesh), key)
    state, metrics = jax.eval_shape(step, start, batch, key)
    assert jax.tree.structure(state) == jax.tree.structure(start) and metrics["frame_loss"].shape == ()


# --- the commands


@pytest.fixture(scope="module")
def own(data, tmp_path_factory):
    """The dataset of the suite in the plain layout: all masks for training, two of each video for evaluation."""
    root = tmp_path_factory.mktemp("own") / "videos"
    for video in sorted((data / "data").iterdir()):
        shutil.copytree(video / "origin", root / video.name / "frames")
        (root / video.name / "masks").mkdir()
        for path in sorted((video / "mask").iterdir()):
            if video.name.startswith("train") or int(path.stem) in (5, 12):
                mask = np.asarray(Image.open(path))
                Image.fromarray(np.where((mask == 0) | (mask == 255), 99, mask - 1).astype(np.uint8)).save(
                    root / video.name / "masks" / path.name
                )
    for split in ("train", "val"):
        shutil.copy(data / f"{split}.txt", root)
    colours = [[40 + k, 200, 3 * k] for k in range(K)]
    tree = {"names": [f"kind {k}" for k in range(K)], "colours": colours, "ignored": 99}
    (root / "classes.json").write_text(json.dumps(tree))
    return root


@pytest.mark.long
def test_own_videos_train_and_evaluate(own, trained, tmp_path, capfd):
    workdir, masks = tmp_path / "run", tmp_path / "masks"
    assert run_command(train_command, train_argv(own, workdir, "--data.layout", "folder")) == 0
    # The same clips with the same labels as in the other layout.
    assert [line["loss"] for line in log_lines(workdir, "train")] == pytest.approx(
        [line["loss"] for line in log_lines(trained[0], "train")], rel=1e-5
    )
    line = log_lines(workdir, "eval")[0]
    assert line["step"] == STEPS and line["CFFM/frames"] == 4 and "CFFM/vc8" not in line
    argv = ["--checkpoint", str(workdir), "--save_predictions", str(masks), "--pictures", str(tmp_path / "pictures")]
    assert run_command(eval_command, argv) == 0
    out = capfd.readouterr().out
    assert "kind 0" in out and sorted(path.name for path in masks.iterdir()) == ["val_0000", "val_0001"]
    assert (tmp_path / "pictures" / "sheet.png").is_file()
    for path in masks.rglob("*.png"):
        assert int(path.stem) in (5, 12)
        with Image.open(path) as image:
            assert image.getpalette("RGB")[: 3 * K] == [value for k in range(K) for value in (40 + k, 200, 3 * k)]
    result = json.loads((workdir / "eval.json").read_text())["rows"]["CFFM"]
    assert result["vc8"] is None and result["miou"] == pytest.approx(line["CFFM/miou"], abs=1e-6)
    argv = ["--predictions", str(masks), "--data.root", str(own), "--data.layout", "folder"]
    assert run_command(eval_command, [*argv, "--model.num_classes", str(K)]) == 0
    assert json.loads((tmp_path / "masks.json").read_text())["rows"]["predictions"] == result


def test_faults_of_the_layouts_are_one_line(refused, tmp_path):
    root = tmp_path / "cityscapes"
    write_snippet(root, "train", "ulm", 0)
    argv = ["--data.root", root, "--workdir", tmp_path / "run", "--data.frame_size", 64, 128, "--data.crop", 64, 64]
    city = ["--config", "configs/b0_cityscapes.py", *argv, "--init.encoder", "none"]
    refused(train_command, city, root / "leftImg8bit_sequence" / "val", "is missing", "_trainvaltest.zip")
    folder = [*city, "--data.layout", "folder"]
    refused(train_command, folder, "--model.num-classes: is missing", f"the classes in {root / 'classes.txt'}")
    refused(train_command, [*folder, "--model.num_classes", 3], root / "train.txt", "cannot be read")
    refused(train_command, [*city, "--data.layout", "vspw"], root, "no data folder", "--data.layout")
    write_own(tmp_path / "own", {"a": (3, {0})})
    (tmp_path / "own" / "classes.txt").write_text("one\ntwo\n")
    argv = ["--config", "configs/synthetic.py", "--data.layout", "folder", "--data.root", tmp_path / "own"]
    argv += ["--workdir", tmp_path / "run"]
    refused(train_command, argv, tmp_path / "own" / "classes.txt", "names 2 classes, not 8; correct the file, or, for")
    argv += ["--model.num_classes", 2]
    refused(train_command, argv, tmp_path / "own" / "val.txt", "cannot be read")
