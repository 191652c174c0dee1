"""Layouts of arrays in PyTorch and here: kinds of layers as data, without JAX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

PARAMS, STATS = "params", "batch_stats"
"""Collections of variables."""


class Layout(NamedTuple):
    """Layout of an array: ``load`` turns the torch array into ours, ``save`` is its inverse."""

    load: Callable[[np.ndarray], np.ndarray]
    save: Callable[[np.ndarray], np.ndarray]


class LayerArray(NamedTuple):
    """One array of a layer.

    Attributes:
      collection: ``PARAMS`` or ``STATS``.
      path: what follows the layer's path here, "/kernel".
      key: what follows the layer's key in a state dict, ".weight".
      layout: of the array.
    """

    collection: str
    path: str
    key: str
    layout: Layout


Kind = tuple[LayerArray, ...]
"""A kind of layer: all its arrays."""

COPY = Layout(lambda x: x, lambda x: x)


def weighted(weight: Layout, bias: Layout = COPY) -> Kind:
    """A layer with a kernel and a bias."""
    return LayerArray(PARAMS, "/kernel", ".weight", weight), LayerArray(PARAMS, "/bias", ".bias", bias)


def single(layout: Layout = COPY) -> Kind:
    """A parameter that the layer's path and key name themselves."""
    return (LayerArray(PARAMS, "", "", layout),)


DENSE = weighted(Layout(lambda x: x.T, lambda x: x.T))
DENSE_1X1 = weighted(Layout(lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None]))
"""A dense layer that the other side stores as a convolution."""
CONV = weighted(Layout(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)))
DEPTHWISE = weighted(Layout(lambda x: x[:, 0].transpose(1, 2, 0), lambda x: x.transpose(2, 0, 1)[:, None]))
NORM = LayerArray(PARAMS, "/scale", ".weight", COPY), LayerArray(PARAMS, "/bias", ".bias", COPY)
BATCH_NORM = (
    *NORM,
    LayerArray(STATS, "/mean", ".running_mean", COPY),
    LayerArray(STATS, "/var", ".running_var", COPY),
)
LAYER_SCALE = single()
"""One weight a channel of a residual branch."""


Combine = Callable[[Sequence[np.ndarray]], np.ndarray]
"""Arrays of a file -> the one that the release makes of them."""


def alone(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return arrays[0]


def dense(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """A 1x1 convolution as a dense layer."""
    return arrays[0][:, :, 0, 0] if arrays[0].shape[2:] == (1, 1) else arrays[0]


def first_third(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return arrays[0][: len(arrays[0]) // 3]


def other_thirds(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return arrays[0][len(arrays[0]) // 3 :]
