"""Gathers by static indices, and their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cffm_jax.models.gather import take, take_of

INDICES = {
    "some twice, some never": np.array([[0, 0, 4], [2, 2, 2]]),
    "one": np.array([3]),
    "each once": np.arange(6)[::-1],
}


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_take_and_its_gradient_are_jaxs(index, axis):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((6, 6, 6)), jnp.float32)
    found, back = jax.vjp(lambda x: take(x, axis, index), x)
    expected, expected_back = jax.vjp(lambda x: jnp.take(x, index, axis=axis), x)
    np.testing.assert_array_equal(found, expected)
    cotangent = jnp.asarray(np.random.default_rng(1).standard_normal(expected.shape), jnp.float32)
    np.testing.assert_allclose(back(cotangent)[0], expected_back(cotangent)[0], atol=1e-6)


def test_parts_are_joined_and_what_lies_after_them_is_zero():
    parts = [jnp.ones((2, 3, 5)), jnp.full((2, 1, 5), 2.0)]
    index = np.array([3, 4, 0, 4, 3])
    found, back = jax.vjp(lambda *parts: take_of(parts, 1, index), *parts)
    np.testing.assert_array_equal(found[0, :, 0], [2, 0, 1, 0, 2])
    first, second = back(jnp.ones((2, 5, 5)))
    np.testing.assert_array_equal(first[0, :, 0], [1, 0, 0])
    np.testing.assert_array_equal(second[0, :, 0], [2])


def test_halves_are_summed_in_float32():
    """3,000 ones in bfloat16 would be 256."""
    index = np.zeros(3000, np.int32)
    gradient = jax.grad(lambda x: take(x, 0, index).astype(jnp.float32).sum())(jnp.ones(2, jnp.bfloat16))
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_array_equal(gradient.astype(jnp.float32), [3008, 0])  # 3,000 as bfloat16 has it.


def test_no_scatter_is_left_backwards():
    index = INDICES["some twice, some never"]
    text = jax.jit(jax.grad(lambda x: take(x, 0, index).sum())).lower(jnp.ones(6)).as_text()
    assert "scatter" not in text and "gather" in text
