"""A small network, and what its streams are."""

import jax
import numpy as np

from cffm_jax.config import Config, DataConfig, EvalConfig, ModelConfig, PrototypeConfig
from cffm_jax.models.create import create_model

SIZE, CLASSES, LENGTH = (60, 90), 5, 13
CONFIG = Config(
    model=ModelConfig("cffmpp_b0", CLASSES),
    data=DataConfig(scale=(90, 60), threads=1, offsets=(5, 3, 1)),
    prototypes=PrototypeConfig(count=6),
    eval=EvalConfig(chunk=LENGTH, prototypes="causal"),
)


def made(name):
    """A small network with large logits and lively features: random weights alone predict one class everywhere."""
    model = create_model(name, CLASSES).clone(depths=(1, 1, 1, 1))
    variables = jax.jit(model.init)(jax.random.key(3), np.zeros((1, 4, 32, 32, 3), np.float32))
    return model, {**variables, "params": jax.tree.map(lambda x: 5 * x if x.ndim > 1 else x, variables["params"])}
