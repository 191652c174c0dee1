"""RAFT's weights in training: they come from a file of their own, lie in checkpoints and stay as they are."""

import dataclasses

import jax
import numpy as np
import pytest

from cffm_jax.config import Config, InitConfig, ModelConfig
from cffm_jax.errors import InputError
from cffm_jax.models.create import build_model
from cffm_jax.models.flow.raft import Raft
from cffm_jax.models.variables import flatten, trained_parts, variable_shapes
from cffm_jax.training.setup import initial_weights
from cffm_jax.weights.files.write import write_safetensors
from cffm_jax.weights.naming.match import convert_state_dict, export_state_dict

from helpers.drawn import lively

SETTINGS = ModelConfig("etc_ocr_mobilenetv2", 3, flow="raft_small", receptive=(7,), pooling=(7,))


@pytest.fixture(scope="module")
def raft():
    image = np.zeros((1, 128, 128, 3), np.float32)
    return jax.device_get(jax.jit(Raft("raft_small").init)(jax.random.key(3), image, image))


@pytest.fixture
def flow_file(tmp_path, raft):
    write_safetensors(tmp_path / "raft.safetensors", export_state_dict(raft, Raft("raft_small")), {})
    return str(tmp_path / "raft.safetensors")


def start(**init):
    config = Config(model=SETTINGS, init=InitConfig(**init))
    return initial_weights(build_model(SETTINGS), config, jax.random.key(0))


@pytest.mark.long
def test_training_starts_with_the_files_weights(raft, flow_file):
    model = build_model(SETTINGS)
    variables, said, licence = start(flow=flow_file)
    assert {path: leaf.shape for path, leaf in flatten(variables).items()} == {
        path: leaf.shape for path, leaf in flatten(variable_shapes(model)).items()
    }
    jax.tree.map(np.testing.assert_array_equal, variables["params"]["flow"], raft["params"])
    assert "flow" not in trained_parts(model, variables["params"])
    assert said == f"random; optical flow from {flow_file}"
    assert licence == "yours: trained from random weights; optical flow: torchvision's weights: BSD-3-Clause"


@pytest.mark.parametrize(
    ("init", "problem"),
    [
        ({}, "--init.flow: is missing: etc_ocr_mobilenetv2 reads the optical flow of raft_small; name the file of"),
        ({"flow": "nowhere.pth"}, "nowhere.pth: no such file; name the file with the weights of raft_small"),
    ],
)
def test_training_does_not_start_without_them(init, problem):
    with pytest.raises(InputError) as error:
        start(**init)
    assert str(error.value).startswith(problem)


def test_weights_of_another_raft_are_refused(flow_file):
    settings = dataclasses.replace(SETTINGS, flow="raft_large")
    config = Config(model=settings, init=InitConfig(flow=flow_file))
    with pytest.raises(InputError, match=r"holds raft_small; give those of raft_large, or set --model\.flow"):
        initial_weights(build_model(settings), config, jax.random.key(0))


def test_a_file_of_the_whole_model_holds_them(tmp_path):
    """Under "raft."; a file that lacks them is refused, and named is what it lacks."""
    model = build_model(SETTINGS)
    variables = lively(model)
    released = export_state_dict(variables, model)
    back = convert_state_dict(released, model)
    jax.tree.map(np.testing.assert_array_equal, back, variables)
    bare = {key: array for key, array in released.items() if not key.startswith("raft.")}
    with pytest.raises(InputError, match=r"missing raft\.\* \(another network's weights[^;]*; give the weights"):
        convert_state_dict(bare, model)


def test_of_a_trained_model_they_are_kept_unless_others_are_named(tmp_path, flow_file):
    settings = dataclasses.replace(SETTINGS, flow="raft_large")
    model, path = build_model(settings), str(tmp_path / "model.safetensors")
    variables = lively(model)
    write_safetensors(path, export_state_dict(variables, model), {})
    config = Config(model=settings, init=InitConfig(model=path))
    kept, said, _ = initial_weights(model, config, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, kept, variables)
    assert "optical flow" in said
    config = dataclasses.replace(config, init=InitConfig(model=path, flow=flow_file))
    with pytest.raises(InputError, match=r"holds raft_small; give those of raft_large"):
        initial_weights(model, config, jax.random.key(0))


def test_what_the_file_gives_is_not_told_as_random(tmp_path, flow_file):
    encoder = build_model(dataclasses.replace(SETTINGS, name="pspnet_mobilenetv2"))
    released = export_state_dict(lively(encoder), encoder, part="encoder")
    write_safetensors(tmp_path / "encoder.safetensors", released, {})
    _, said, _ = start(encoder=str(tmp_path / "encoder.safetensors"), flow=flow_file)
    assert said.count("optical flow") == 1 and f"optical flow from {flow_file}" in said
