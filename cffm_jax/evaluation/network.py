"""A model with its weights, ready to be evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from cffm_jax.checkpoints.compatible import changed_settings
from cffm_jax.config import Config
from cffm_jax.data.layouts.classes import stated_classes
from cffm_jax.inference import video_prototypes
from cffm_jax.inference.whole_videos import PrototypeSource
from cffm_jax.models.methods.method import Method
from cffm_jax.weights.described import StoredWeights
from cffm_jax.weights.open import beside, complete


class Network(NamedTuple):
    """A model with its weights on the devices.

    Attributes:
      path: of the weights.
      config: the settings that it is evaluated with.
      origin, step: of the weights.
      changed: settings that are not those stored with them.
      source: of a method that reads prototypes.
      copies: the weights on each device that is used.
      note: how the weights' classes differ from the dataset's.
    """

    path: str
    config: Config
    model: Method
    origin: str
    step: int | None
    changed: dict[str, Any]
    source: PrototypeSource | None
    copies: list[dict[str, Any]]
    note: str = ""


def load_network(
    path: str, weights: StoredWeights, model: Method, config: Config, devices: Sequence[jax.Device]
) -> Network:
    """Weights on the devices; ``path`` names them."""
    variables = complete(weights)
    # Without a place the first: prototypes, which are computed with them on any device, follow
    # that.
    copies = [jax.device_put(variables), *(jax.device_put(variables, device) for device in devices[1:])]
    source = None
    if model.reads_prototypes:
        folder = beside(path, video_prototypes.FOLDER)
        source = video_prototypes.prototype_source(config, model, copies[0], config.data.eval_split, folder)
    own = stated_classes(config.data.root, config.model.num_classes, config.data.layout)
    note = weights.classes.contradiction(own.names) if own else ""
    changed = changed_settings(weights.config, config)
    return Network(path, config, model, weights.origin, weights.step, changed, source, copies, note)
