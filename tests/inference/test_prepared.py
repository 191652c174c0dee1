"""A step cut in two: work on weights alone, and the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cffm_jax.inference.prepared import halves


def step(weights, state, x):
    kernel = (weights["kernel"] @ weights["kernel"].T).astype(jnp.bfloat16)
    table = jnp.concatenate([jax.nn.softmax(weights["bias"]), jnp.full(1, -1e9)])
    y = x.astype(jnp.bfloat16) @ kernel + weights["bias"]  # Repeated for every row.
    return state + 1, {"y": jnp.where(x > 0, y.astype(jnp.float32), 0.0), "table": table[:2] * x[0, :2]}


@pytest.fixture
def arguments():
    rng = np.random.default_rng(0)
    kernel, bias, x = (rng.standard_normal(shape).astype(np.float32) for shape in ((4, 3), (4,), (50, 4)))
    return {"kernel": kernel, "bias": bias, "unused": np.zeros(1000, np.float32)}, jnp.int32(0), x


def test_both_halves_are_the_whole(arguments):
    first, second = halves(step, *jax.eval_shape(lambda *x: x, *arguments))
    prepared = jax.jit(first)(arguments[0])
    assert {leaf.shape for leaf in prepared.values} == {(4, 4), (1, 4), (2,)}, "no more than what is read"
    expected, found = jax.jit(step)(*arguments), jax.jit(second)(prepared, *arguments[1:])
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def operations(function, *arguments):
    return [equation.primitive.name for equation in jax.make_jaxpr(function)(*arguments).eqns]


def test_work_on_weights_alone_is_in_the_first_half(arguments):
    first, second = halves(step, *arguments)
    later = operations(second, first(arguments[0]), *arguments[1:])
    assert later.count("dot_general") == 1 and "exp" not in later
    assert "dot_general" in operations(first, arguments[0])


def test_what_repeats_weights_is_in_the_second_half():
    first, second = halves(
        lambda weights, x: x + jnp.broadcast_to(weights, (1000, 3)) * 2, jnp.ones(3), jnp.ones((1000, 3))
    )
    assert [leaf.shape for leaf in first(jnp.ones(3)).values] == [(3,)]
    np.testing.assert_array_equal(second(first(jnp.ones(3)), jnp.ones((1000, 3))), 3)
