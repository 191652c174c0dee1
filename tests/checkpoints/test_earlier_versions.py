"""Checkpoints of 0.1.0 load: their arrays have the names and shapes that are asked for today, their config is read.

``golden/checkpoints_0_1_0.json`` is what 0.1.0 stored of two models: the config, and each array's path and shape.
"""

import json
from pathlib import Path

import jax
import pytest

from cffm_jax.models.create import build_model
from cffm_jax.models.variables import variable_shapes
from cffm_jax.settings import config_from_dict
from cffm_jax.training.optim import make_optimizer
from cffm_jax.training.sharding import init_state, make_mesh

STORED = json.loads((Path(__file__).parents[1] / "golden" / "checkpoints_0_1_0.json").read_text())


@pytest.mark.parametrize("name", STORED)
def test_names_and_shapes_are_those_of_today(name):
    config = config_from_dict(STORED[name]["config"], "stored")
    model, mesh = build_model(config.model), make_mesh(1)
    assert model.public_name == name

    def start(variables):
        return init_state(model, variables, make_optimizer(config.optim, 10, model), mesh, ema=True)

    state = jax.eval_shape(start, variable_shapes(model))
    leaves = jax.tree_util.tree_leaves_with_path(state)
    today = {jax.tree_util.keystr(path): [list(leaf.shape), leaf.dtype.name] for path, leaf in leaves}
    assert today == STORED[name]["state"]
