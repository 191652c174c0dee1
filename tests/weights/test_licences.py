"""Notices about the use of weights go along the whole chain of what is trained from them."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import cffm_jax
from cffm_jax.checkpoints.state import TrainState
from cffm_jax.checkpoints.store import Checkpoints
from cffm_jax.commands.convert import convert_command
from cffm_jax.config import Config, InitConfig, ModelConfig
from cffm_jax.export.stablehlo import description
from cffm_jax.models.encoders.mit import NON_COMMERCIAL
from cffm_jax.models.variables import trained_parts, variable_shapes
from cffm_jax.runtime.command_line import run_command
from cffm_jax.training.setup import initial_weights
from cffm_jax.weights import summary
from cffm_jax.weights.naming.match import key_map
from cffm_jax.weights.open import open_stored

MODEL = cffm_jax.create_model("segformer_b0", 3)


def config_of(**init):
    return Config(model=ModelConfig("segformer_b0", 3), init=InitConfig(**init))


@pytest.fixture
def mit(tmp_path):
    """A whole SegFormer as NVIDIA's: nothing starts at random, so that nothing is compiled."""
    keys = key_map(MODEL).items()
    arrays = {key: np.ones(layout.save(np.empty(shape, bool)).shape, np.float16) for key, (_, _, layout, shape) in keys}
    safetensors.numpy.save_file(arrays, tmp_path / "mit.safetensors")
    return tmp_path / "mit.safetensors"


def trained(workdir, config, ema=False):
    """The checkpoint of a run that starts as the config says."""
    variables, said, licence = initial_weights(MODEL, config, jax.random.key(0))
    params = variables["params"]
    average = {part: params[part] for part in trained_parts(MODEL, variable_shapes(MODEL)["params"])} if ema else None
    state = TrainState(
        jnp.int32(1), params, variables["batch_stats"], {"count": jnp.int32(0)}, jnp.int32(0), jnp.int32(0), average
    )
    with Checkpoints(workdir, create=True) as checkpoints:
        checkpoints.save(jax.tree.map(jnp.asarray, state), config, {"licence": licence, "classes": None})
    return workdir, said


@pytest.mark.long
def test_the_whole_chain(mit, tmp_path, capfd):
    first, said = trained(tmp_path / "first", config_of(model=str(mit)))
    assert NON_COMMERCIAL in said
    mit.unlink()
    second, said = trained(tmp_path / "second", config_of(model=str(first)), ema=True)
    assert NON_COMMERCIAL in said
    converted = {to: tmp_path / f"{to}.file" for to in ("cffm_jax", "torch")}
    for to, path in converted.items():
        assert run_command(convert_command, [str(second), str(path), "--to", to]) == 0
        assert NON_COMMERCIAL in capfd.readouterr().out
    third, said = trained(tmp_path / "third", config_of(model=str(converted["torch"])))
    assert NON_COMMERCIAL in said
    for path in (first, second, *converted.values(), third):
        for raw in (False, True):
            with open_stored(path, raw=raw) as weights:
                licence = weights.licence
                assert NON_COMMERCIAL in licence and str(mit) in licence, path
                assert f"licence       {licence}" in summary.description(weights)
                assert path != second or weights.origin.endswith("EMA weights") != raw
    assert licence.startswith(f"inherited from {converted['torch']}: inherited from {first}: inherited from {mit}: ")
    model = SimpleNamespace(reads_prototypes=False)
    exported = SimpleNamespace(config=config_of(), streams=1, size=(2, 2), input_size=(32, 32), model=model)
    assert description(cffm_jax.load(second), exported)["licence"] == licence.split(": ", 1)[1]


def test_a_run_that_goes_on_keeps_its_notice(mit, tmp_path):
    config = dataclasses.replace(config_of(model=str(mit)), workdir=str(tmp_path / "run"))
    trained(tmp_path / "run", config)
    mit.unlink()
    _, _, licence = initial_weights(MODEL, config, jax.random.key(0), start=1)
    assert licence.startswith(f"inherited from {mit}: ") and NON_COMMERCIAL in licence


def test_runs_of_earlier_versions_say_what_they_started_from(tmp_path):
    state = TrainState(jnp.int32(1), {"w": jnp.ones(3)}, {}, (), jnp.int32(0), jnp.int32(0))
    for name, config in {"mit_b0.pth": config_of(encoder="mit_b0.pth"), "random": config_of()}.items():
        with Checkpoints(tmp_path / name, create=True) as checkpoints:
            checkpoints.save(state, config)
        with open_stored(tmp_path / name) as weights:
            assert name in weights.licence
