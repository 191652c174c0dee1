"""ETC learns of a larger network: which networks teach, what they give, and training from end to end."""

import dataclasses

import numpy as np
import pytest

import cffm_jax
from cffm_jax.commands.train import train_command
from cffm_jax.config import Config, DataConfig, ModelConfig, TrainConfig
from cffm_jax.errors import InputError
from cffm_jax.models.create import build_model
from cffm_jax.models.distillation import FEATURES, LOGITS
from cffm_jax.models.normalise import normalise
from cffm_jax.runtime.command_line import run_command
from cffm_jax.training.sharding import make_mesh
from cffm_jax.training.teacher import open_teacher
from cffm_jax.weights.files.write import write_safetensors

from helpers.drawn import lively
from helpers.runs import K, log_lines, train_argv

STUDENT = ModelConfig("etc_ocr_mobilenetv2", K, flow="raft_small", flow_updates=1, receptive=(7,), pooling=(7,))


@pytest.fixture
def written(tmp_path):
    def write(name, classes=K, part="all"):
        model = cffm_jax.create_model(name, num_classes=classes)
        variables = lively(model)
        path = tmp_path / f"{name}_{classes}_{part}.safetensors"
        write_safetensors(path, cffm_jax.export_state_dict(variables, model, part=part), {})
        return str(path), model, variables

    return write


def opened(path, settings=STUDENT, crop=(64, 64)):
    config = Config(model=settings, data=DataConfig(crop=crop), train=TrainConfig(teacher=path))
    return open_teacher(build_model(settings), config)


@pytest.mark.long
def test_a_batch_has_the_teachers_outputs(written):
    """The logits of its frames, each on its own, and the features that they are of."""
    path, model, variables = written("segformer_b0")
    frames = np.random.default_rng(0).integers(0, 256, (2, 2, 64, 64, 3), np.uint8)
    batch = {"frames": frames, "size": np.full((2, 2), 64, np.int32), "labels": np.zeros((2, 1, 64, 64), np.uint8)}
    teacher = opened(path)
    teacher.start(make_mesh(1))
    taught = teacher(batch)
    assert taught["labels"] is batch["labels"] and taught[FEATURES].shape == (2, 2, 16, 16, 256)
    alone = normalise(frames, batch["size"], model.channels)[1, 0][None]
    expected = model.apply(variables, alone, method="frame_logits")[0]
    np.testing.assert_allclose(taught[LOGITS][1, 0], expected, atol=2e-5 * float(np.abs(expected).max()))


@pytest.mark.parametrize(
    ("name", "classes", "part", "problem"),
    [
        ("cffm_b0", K, "all", "holds cffm_b0, which does not segment each frame on its own; name an image network"),
        ("segformer_b0", K + 1, "all", f"has {K + 1} classes, etc_ocr_mobilenetv2 here {K}; name an image"),
        ("segformer_b0", K, "encoder", "holds an encoder alone; name an image network"),
    ],
)
def test_networks_that_do_not_teach_are_refused(written, name, classes, part, problem):
    path, *_ = written(name, classes, part)
    with pytest.raises(InputError) as error:
        opened(path)
    assert str(error.value).startswith(f"{path}: {problem}")


def test_crops_that_the_teacher_cannot_read_are_refused(written):
    path, *_ = written("segformer_b0")
    with pytest.raises(InputError, match="multiples of 32, and --data.crop is 40 64; give such a --data.crop, or"):
        opened(path, crop=(40, 64))


def test_others_do_not_learn():
    with pytest.raises(InputError, match="--train.teacher: cffm_b0 does not learn of a teacher; leave it out, or"):
        opened("any.pth", dataclasses.replace(STUDENT, name="cffm_b0"))
    assert opened("") is None


@pytest.mark.long
def test_training(written, data, tmp_path, capfd):
    """The command reports both losses; the checkpoint holds nothing of the teacher but its notice."""
    path, *_ = written("pspnet_mobilenetv2")
    options = ("--model.flow", "raft_small", "--model.flow_updates", 1, "--init.flow", "none", "--model.receptive", 7)
    options += ("--model.pooling", 7, "--data.offsets", 1, "--model.name", "etc_psp_mobilenetv2", "--model.depths")
    argv = train_argv(data, tmp_path / "run", *options, "--train.teacher", path)
    argv += ["--train.steps", "3"]
    assert run_command(train_command, argv) == 0
    assert f"teacher: pspnet_mobilenetv2 from {path}" in capfd.readouterr().out
    lines = log_lines(tmp_path / "run", "train")
    assert len(lines) == 3
    for line in lines:
        taught = [line["pixel_loss"], line["pair_loss"]]
        assert np.isfinite(taught).all() and min(taught) > 0
        whole = line["head_loss"] + 0.4 * line["auxiliary_loss"] + 0.1 * (line["motion_loss"] + sum(taught))
        assert line["loss"] == pytest.approx(whole, rel=1e-5)
    with cffm_jax.weights.open.open_stored(str(tmp_path / "run")) as stored:
        assert "teacher: inherited from" in stored.licence and stored.model.num_classes == K
        assert all("taught" not in name and "teacher" not in name for name in stored.leaves)
