"""Parts of attention: gradients beside JAX's own, tokens that align their number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cffm_jax.models import by_platform, convolutions, layers

EQUATION = "nlad,nsad->nals"


def normal(*shape: int, seed: int = 0, dtype=jnp.float32) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def gradients(function, *arguments):
    """Of a sum that weighs the results differently."""
    shape = jax.eval_shape(function, *arguments).shape
    return jax.jit(jax.grad(lambda *x: jnp.sum(function(*x) * normal(*shape, seed=9)), range(len(arguments))))(
        *arguments
    )


def test_the_gradients_of_logits_and_weights_are_jaxs_in_float32():
    queries, keys = normal(2, 5, 3, 4), normal(2, 7, 3, 4, seed=1)

    def ours(queries, keys):
        return layers.softmax(layers.logits(EQUATION, queries, keys), jnp.float32)

    def jaxs(queries, keys):
        return jax.nn.softmax(jnp.einsum(EQUATION, queries, keys))

    np.testing.assert_allclose(ours(queries, keys), jaxs(queries, keys), atol=1e-6)
    for found, expected in zip(gradients(ours, queries, keys), gradients(jaxs, queries, keys), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_halves_are_summed_in_float32_and_their_gradients_are_halves():
    queries, keys = (normal(1, 9, 2, 64, seed=i, dtype=jnp.bfloat16) for i in (0, 1))
    logits = layers.logits(EQUATION, queries, keys)
    exact = jnp.einsum(EQUATION, *(x.astype(jnp.float32) for x in (queries, keys)))
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, exact, atol=1e-4)
    for found in gradients(lambda *x: layers.logits(EQUATION, *x), queries, keys):
        assert found.dtype == jnp.bfloat16
    text = jax.jit(jax.grad(lambda *x: layers.logits(EQUATION, *x).sum(), (0, 1))).lower(queries, keys).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert products and all("f32" not in line.rpartition(":")[2].partition("->")[0] for line in products)
    weights, back = jax.vjp(lambda logits: layers.softmax(logits, jnp.bfloat16), logits)
    assert weights.dtype == jnp.bfloat16
    kept = {leaf.dtype for leaf in jax.tree.leaves(back) if leaf.shape == weights.shape}
    assert kept == {jnp.dtype(jnp.bfloat16)}, "no weights in float32 are kept"


@pytest.mark.parametrize(("dtype", "count"), [(jnp.float32, 5), (jnp.bfloat16, 8)])
def test_tokens_that_align_weigh_nothing(dtype, count):
    keys = layers.align(normal(1, 5, 2, 4, dtype=dtype), 1, dtype)
    mask = layers.key_mask(5, dtype)
    assert keys.shape == (1, count, 2, 4) and mask.shape == (count,) and not np.any(keys[:, 5:])
    weights = layers.softmax(normal(3, count, seed=2) + mask, jnp.float32)
    np.testing.assert_array_equal(weights[:, 5:], 0)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
    assert np.isfinite(gradients(lambda x: layers.softmax(x + mask, jnp.float32), normal(3, count, seed=2))[0]).all()


@pytest.mark.parametrize("rows", [8, 9])
def test_a_product_is_the_same_with_features_that_are_no_multiple(rows):
    x, kernel = normal(2, rows, 16), normal(16, 13, seed=1)
    found = layers.matmul(x, kernel, jnp.bfloat16)
    assert found.shape == (2, rows, 13)
    np.testing.assert_allclose(found.astype(jnp.float32), x @ kernel, atol=0.2)


@pytest.mark.parametrize("form", ["cpu", "default"])
def test_convolutions_are_jaxs(form):
    x, kernel = normal(2, 9, 11, 3), normal(3, 3, 3, 5, seed=1)
    pad = ((1, 1), (1, 1))
    with by_platform.only(form):
        found = convolutions.convolution(x, kernel, (2, 2), pad, dimension_numbers=None)
    numbers = ("NHWC", "HWIO", "NHWC")
    expected = jax.lax.conv_general_dilated(x, kernel, (2, 2), pad, dimension_numbers=numbers)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("form", ["cpu", "default"])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 8), (1, 12)])
def test_dilated_convolutions_and_their_gradients_are_jaxs(stride, dilation, form):
    """At 12 a part of the filter lies outside at every position."""
    x, kernel = normal(2, 11, 19, 3), normal(3, 3, 3, 5, seed=1)

    def jaxs(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (stride,) * 2, ((dilation,) * 2,) * 2,
            rhs_dilation=(dilation,) * 2, dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip

    def ours(x, kernel):
        return convolutions.padded_convolution(x, kernel, stride, dilation)

    with by_platform.only(form):
        np.testing.assert_allclose(ours(x, kernel), jaxs(x, kernel), atol=1e-5)
        for found, expected in zip(gradients(ours, x, kernel), gradients(jaxs, x, kernel), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("form", ["cpu", "default"])
def test_the_relu_of_a_sum_and_its_gradients_are_jaxs(form):
    x, y = normal(5, 7), normal(5, 7, seed=1)
    y = y.at[0].set(-x[0]).at[1, :3].set(jnp.nan).at[2].set(1e-9)  # Sums of 0, of nothing, that are rounded.

    def jaxs(x, y):
        return jax.nn.relu(x + y)

    with by_platform.only(form):
        np.testing.assert_array_equal(layers.relu_of_sum(x, y), jaxs(x, y))
        for found, expected in zip(gradients(layers.relu_of_sum, x, y), gradients(jaxs, x, y), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_blocks_in_a_row_are_computed_once():
    """Each adds the same to the memory that is read and written, however many stand before it."""

    def accessed(blocks: int) -> float:
        def row(x, kernels):
            for kernel in kernels:
                x = layers.relu_of_sum(x, jax.nn.relu(x @ kernel) @ kernel.T)
            return x

        compiled = jax.jit(row).lower(normal(640, 64), [normal(64, 16)] * blocks).compile()
        return compiled.cost_analysis()["bytes accessed"]

    assert accessed(6) - accessed(4) == accessed(4) - accessed(2)
