"""Rematerialisation: the same gradients with less kept, of parameters with the same names."""

import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import print_saved_residuals

from cffm_jax.models import cfm, layers
from cffm_jax.models.create import create_model
from cffm_jax.models.encoders import mit

pytestmark = pytest.mark.long

KEPT = ("none", "products", "blocks")


class Blocks(nn.Module):
    """A block of the encoder and one of the mining, wired as in the models."""

    remat: str

    @nn.compact
    def __call__(self, x):
        block = layers.rematerialised(mit.Block, self.remat, 1)
        x = block(2, 2, 4, (1e-5, 1e-6), 0.5, jnp.float32, name="block0")(x, True)
        mining = layers.rematerialised(cfm.MiningBlock, self.remat, methods=("reference_cells", "__call__"))
        mining = mining(width=16, name="local_0")
        return mining(x, mining.reference_cells(jnp.stack([x[::-1]] * 3, 1)))


def test_the_gradients_are_the_same():
    """The drop path too is drawn as before; 1e-5 of each array's largest value."""
    x, keys = jax.random.normal(jax.random.key(1), (4, 8, 8, 16)), {"dropout": jax.random.key(2)}
    variables = jax.jit(lambda key: Blocks("none").init({"params": key, **keys}, x))(jax.random.key(0))

    def gradients(remat):
        def loss(variables):
            return jnp.square(Blocks(remat).apply(variables, x, rngs=keys)).mean()

        return jax.device_get(jax.jit(jax.value_and_grad(loss))(variables))

    def check(found, expected):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * max(np.abs(expected).max(), 1e-3))

    expected = gradients("none")
    for remat in KEPT[1:]:
        jax.tree.map(check, gradients(remat), expected)


@pytest.mark.parametrize("name", ["cffm_b0", "cffm_convnext_tiny"])
def test_less_is_kept_under_the_same_names(name, capsys):
    clips = jax.ShapeDtypeStruct((1, 4, 32, 32, 3), jnp.float32)
    model, key = create_model(name, 5).clone(depths=(1, 1, 2, 1)), jax.random.key(0)

    def kept(remat):
        """(bytes that the pass back is given, shapes of the variables)."""
        cloned = model.clone(remat=remat)
        variables = jax.eval_shape(cloned.init, key, clips)

        def loss(variables, clips):
            return cloned.apply(variables, clips, train=True, mutable=["batch_stats"], rngs={"dropout": key})[0].sum()

        print_saved_residuals(loss, variables, clips)
        found = re.findall(r"^(?:f|i|u|bool)(\d*)\[([\d,]*)\] (?!from the argument)", capsys.readouterr().out, re.M)
        return sum(
            int(bits or 8) // 8 * math.prod(map(int, filter(None, s.split(",")))) for bits, s in found
        ), variables

    (none, names), (products, of_products), (blocks, of_blocks) = map(kept, KEPT)
    assert names == of_products == of_blocks
    assert blocks < products < 0.7 * none
