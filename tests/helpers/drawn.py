"""Variables of a model without an initialisation to compile."""

import jax
import numpy as np

from cffm_jax.models.variables import variable_shapes


def lively(model, seed=3):
    """Random variables that predict several classes, which initial ones do not: features and logits of about 1."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if leaf.ndim < 2:
            # Norms, statistics; poolings that take the mean; biases.
            given = {"scale": 1, "var": 1, "gamma": 1, "weight": 1 / leaf.size}
            given |= {"present": 1, "before": 0.5, "strength": 2}  # NetWarp's blends, GRFP's lambda.
            return np.full(leaf.shape, given.get(path[-1].key, 0), np.float32)
        spread = 5 if "classifier" in path[1].key else 1.5
        return (spread / np.sqrt(np.prod(leaf.shape[:-1])) * rng.standard_normal(leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, variable_shapes(model))
