"""A first layer for other channels, out of RGB weights."""

import dataclasses

import jax
import numpy as np
import pytest

from cffm_jax.channels import RGB, Channels
from cffm_jax.config import Config, DataConfig, ModelConfig
from cffm_jax.errors import InputError
from cffm_jax.models.create import build_model
from cffm_jax.models.normalise import normalise
from cffm_jax.models.variables import flatten, init_variables
from cffm_jax.weights.described import StoredWeights
from cffm_jax.weights.files.stored_array import StoredArray
from cffm_jax.weights.start import start_from

GREY = Channels(("thermal",), (100.0,), (50.0,))


def stored(config):
    model = build_model(config.model, config.data.frame_channels)
    variables = init_variables(model, jax.random.key(0))
    leaves = {
        path: StoredArray(leaf.shape, np.dtype(leaf.dtype), lambda leaf=leaf: np.asarray(leaf))
        for path, leaf in flatten(variables).items()
    }
    return model, variables, StoredWeights("here", "a test's", "all", config, leaves)


@pytest.mark.parametrize("backbone", ["b0", "convnext_tiny"])
def test_a_grey_channel_is_a_grey_picture(backbone):
    config = Config(model=ModelConfig(f"segformer_{backbone}", 3, depths=(1, 1, 1, 1), width=64))
    rgb, variables, weights = stored(config)
    grey = rgb.clone(channels=GREY)
    extended, report = start_from(weights, grey, jax.random.key(1))
    assert "first layer from RGB weights: the colours' mean times 3/1 for thermal" in str(report)
    frame = np.random.default_rng(0).normal(100, 50, (1, 64, 64, 1)).astype(np.float32)
    one = normalise(frame, channels=GREY)
    expected = rgb.apply(variables, np.repeat(one, 3, -1), method="frame_logits")
    np.testing.assert_allclose(grey.apply(extended, one, method="frame_logits"), expected, rtol=1e-3, atol=1e-4)


def test_colours_keep_their_filters_and_other_channels_are_not_mixed_up():
    config = Config(model=ModelConfig("segformer_b0", 3, depths=(1, 1, 1, 1), width=64))
    rgb, variables, weights = stored(config)
    mixed = Channels(("nir", "blue", "red", "green"), (0.0,) * 4, (1.0,) * 4)
    extended, _ = start_from(weights, rgb.clone(channels=mixed), jax.random.key(1))
    changed = [
        (np.asarray(old), np.asarray(flatten(extended)[path]))
        for path, old in flatten(variables).items()
        if old.shape != flatten(extended)[path].shape
    ]
    ((old, new),) = changed
    assert np.array_equal(new[..., 1:, :], old[..., [2, 0, 1], :])
    np.testing.assert_allclose(new[..., 0, :], old.mean(-2) * 3 / 4, rtol=1e-6)
    data = DataConfig(channels=mixed.names, mean=mixed.mean, std=mixed.std)
    other = dataclasses.replace(weights, config=dataclasses.replace(config, data=data))
    with pytest.raises(InputError, match="for the channels nir blue red green, not red green blue"):
        start_from(other, rgb.clone(channels=Channels(RGB)), jax.random.key(1))
