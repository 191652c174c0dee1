"""A first layer for other channels, out of RGB weights."""

import dataclasses

import jax
import numpy as np
import pytest

from cffm_jax.channels import RGB, Channels
from cffm_jax.config import Config, DataConfig, ModelConfig
from cffm_jax.errors import InputError
from cffm_jax.models.create import build_model
from cffm_jax.models.variables import flatten, variable_shapes
from cffm_jax.weights.described import StoredWeights
from cffm_jax.weights.files.stored_array import StoredArray
from cffm_jax.weights.start import start_from

GREY = Channels(("thermal",), (100.0,), (50.0,))


def stored(config):
    """A model, drawn values of its variables by path, and these as a file holds them."""
    model = build_model(config.model, config.data.frame_channels)
    rng = np.random.default_rng(0)
    drawn = {
        path: rng.normal(size=leaf.shape).astype(np.float32) for path, leaf in flatten(variable_shapes(model)).items()
    }
    leaves = {path: StoredArray(leaf.shape, leaf.dtype, lambda leaf=leaf: leaf) for path, leaf in drawn.items()}
    return model, drawn, StoredWeights("here", "a test's", "all", config, leaves)


def changed(drawn, extended):
    """The one array of other shape, before and after; all others are the same."""
    extended = {path: np.asarray(leaf) for path, leaf in flatten(extended).items()}
    (path,) = (path for path, leaf in drawn.items() if leaf.shape != extended[path].shape)
    assert all(np.array_equal(leaf, extended[other]) for other, leaf in drawn.items() if other != path)
    return drawn[path], extended[path]


@pytest.mark.parametrize("backbone", ["b0", "pvtv2_b0", "convnext_tiny"])
def test_a_grey_channel_is_a_grey_picture(backbone):
    """The first layer's products with the same value in red, green and blue."""
    config = Config(model=ModelConfig(f"segformer_{backbone}", 3, depths=(1, 1, 1, 1), width=64))
    rgb, drawn, weights = stored(config)
    extended, report = start_from(weights, rgb.clone(channels=GREY), jax.random.key(1))
    assert "first layer from RGB weights: the colours' mean times 3/1 for thermal" in str(report)
    old, new = changed(drawn, extended)
    assert new.shape[:2] == old.shape[:2] and new.shape[2:] == (1, old.shape[3])
    grey = np.random.default_rng(1).normal(size=old.shape[:2]).astype(np.float32)
    expected = np.einsum("hw,hwkc->c", grey, old)
    np.testing.assert_allclose(np.einsum("hw,hwkc->c", grey, new), expected, rtol=1e-4, atol=1e-4)


def test_colours_keep_their_filters_and_other_channels_are_not_mixed_up():
    config = Config(model=ModelConfig("segformer_b0", 3, depths=(1, 1, 1, 1), width=64))
    rgb, drawn, weights = stored(config)
    mixed = Channels(("nir", "blue", "red", "green"), (0.0,) * 4, (1.0,) * 4)
    old, new = changed(drawn, start_from(weights, rgb.clone(channels=mixed), jax.random.key(1))[0])
    assert np.array_equal(new[..., 1:, :], old[..., [2, 0, 1], :])
    np.testing.assert_allclose(new[..., 0, :], old.mean(-2) * 3 / 4, rtol=1e-6)
    data = DataConfig(channels=mixed.names, mean=mixed.mean, std=mixed.std)
    other = dataclasses.replace(weights, config=dataclasses.replace(config, data=data))
    with pytest.raises(InputError, match="for the channels nir blue red green, not red green blue"):
        start_from(other, rgb.clone(channels=Channels(RGB)), jax.random.key(1))
