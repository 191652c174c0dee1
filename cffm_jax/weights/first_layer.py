"""The encoder's first layer for frames of other channels, out of that of an RGB network."""

from __future__ import annotations

import dataclasses

import numpy as np

from cffm_jax.channels import COLOURS, RGB, Channels
from cffm_jax.errors import InputError
from cffm_jax.models.methods.method import Method
from cffm_jax.models.variables import flatten, variable_shapes
from cffm_jax.weights.described import StoredWeights
from cffm_jax.weights.files.stored_array import StoredArray


def extended(kernel: np.ndarray, channels: Channels) -> np.ndarray:
    """The kernel f32[..., K, C] for K channels, of f32[..., 3, C] for red, green and blue.

    A colour keeps its filters; every other channel takes the mean of the three times 3 / K. Where
    no colour is among them, the same values in all channels, such as a single grey one, give what
    the RGB network gives of a grey picture that is normalised alike.
    """
    other = kernel.mean(-2) * (len(RGB) / len(channels))
    each = [kernel[..., RGB.index(name), :] if name in RGB else other for name in channels.names]
    return np.stack(each, -2).astype(kernel.dtype)


def for_channels(weights: StoredWeights, model: Method) -> tuple[StoredWeights, str]:
    """The weights with a first layer for the model's channels, and the rule in words where it was
    followed, else "".

    Raises:
      InputError: they are for other channels than the model's, and not for RGB.
    """
    there, here = weights.config.data.frame_channels, model.channels
    if there.names == here.names:
        return weights, ""
    if not there.coloured:
        problem = f"is for the channels {' '.join(there.names)}, not {' '.join(here.names)}"
        raise InputError(weights.source, problem, f"give --data.channels {' '.join(there.names)}, or other weights")
    one_more = Channels((*RGB, "other"))
    rgb, other = (flatten(variable_shapes(model.clone(channels=each))) for each in (COLOURS, one_more))
    (path,) = (path for path, leaf in rgb.items() if leaf.shape != other[path].shape)
    leaf = weights.leaves.get(path)
    if leaf is None or leaf.shape != rgb[path].shape:
        return weights, ""  # Of another encoder: told when shapes are compared.
    shape = (*leaf.shape[:-2], len(here), leaf.shape[-1])
    new = StoredArray(shape, leaf.dtype, lambda: extended(np.asarray(leaf.load()), here))
    names = [name for name in here.names if name not in RGB]
    words = f"the colours' mean times 3/{len(here)} for {', '.join(names)}" if names else "the colours' in this order"
    return dataclasses.replace(weights, leaves={**weights.leaves, path: new}), words
