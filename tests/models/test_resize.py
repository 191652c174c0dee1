"""Bilinear resizing with half-pixel centres and no antialias."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cffm_jax.models import by_platform
from cffm_jax.models.resize import interpolation_matrix, resize_bilinear, transposed

from helpers.resizes import naive_matrix, naive_resize

resize = jax.jit(resize_bilinear, static_argnames="size")


def in_form(form):
    """``resize_bilinear`` as CPUs compute it, or all other platforms."""

    @functools.partial(jax.jit, static_argnames="size")
    def resize(x, size):
        with by_platform.only(form):
            return resize_bilinear(x, size)

    return resize


FORMS = {form: in_form(form) for form in ("cpu", "default")}
each_form = pytest.mark.parametrize("form", FORMS)

LENGTHS = [
    pytest.param(5, 5, id="identity"),
    pytest.param(1, 4, id="one to many"),
    pytest.param(5, 10, id="doubled"),
    pytest.param(5, 15, id="tripled"),
    pytest.param(5, 20, id="four times"),
    pytest.param(3, 24, id="eight times"),
    pytest.param(10, 5, id="halved"),
    pytest.param(2, 1, id="halved to one"),
    pytest.param(12, 4, id="a third"),
    pytest.param(7, 6, id="6 / 7"),
    pytest.param(7, 1, id="many to one"),
    pytest.param(11, 17, id="odd ratio up"),
    pytest.param(17, 5, id="odd ratio down"),
]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("size_in", "size_out"), LENGTHS)
def test_the_weights_are_the_definition(size_in, size_out):
    matrix = interpolation_matrix(size_in, size_out)
    assert matrix.dtype == np.float32
    np.testing.assert_allclose(matrix, naive_matrix(size_in, size_out), atol=1e-6)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
    x = normal(2, size_out, 3)
    expected = np.einsum("oi,bok->bik", naive_matrix(size_in, size_out), x)
    np.testing.assert_allclose(transposed(x, 1, size_in), expected, atol=1e-5)


@pytest.mark.parametrize(("size_in", "size_out"), LENGTHS)
@pytest.mark.parametrize("axis", ["rows", "columns"])
@each_form
def test_each_axis_alone(form, size_in, size_out, axis):
    shape, size = ((2, size_in, 6, 3), (size_out, 6)) if axis == "rows" else ((2, 6, size_in, 3), (6, size_out))
    x = normal(*shape)
    y = FORMS[form](jnp.asarray(x), size)
    assert y.shape == (2, *size, 3) and y.dtype == jnp.float32
    np.testing.assert_allclose(y, naive_resize(x, size), atol=3e-6)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((6, 10), (12, 20)),
        ((6, 10), (3, 5)),
        ((3, 5), (24, 40)),
        ((7, 14), (6, 12)),
        ((9, 16), (4, 33)),
        ((120, 3), (13, 48)),
        ((4, 6), (4, 3)),
    ],
)
def test_both_axes_at_once(shape, size):
    x = normal(1, *shape, 2)
    np.testing.assert_allclose(resize(jnp.asarray(x), size), naive_resize(x, size), atol=3e-6)


def test_known_values():
    x = jnp.asarray([0.0, 4.0, 8.0, 0.0]).reshape(1, 1, 4, 1)
    doubled = [0, 1, 3, 5, 7, 6, 2, 0]
    np.testing.assert_allclose(resize(x, (1, 8))[0, 0, :, 0], doubled, atol=1e-6)
    np.testing.assert_allclose(resize(x, (1, 2))[0, 0, :, 0], [2, 4], atol=1e-6)
    # No antialias: a shrink by 4 reads the two middle pixels, not all four.
    np.testing.assert_allclose(resize(x, (1, 1))[0, 0, :, 0], [6], atol=1e-6)


@pytest.mark.parametrize("size", [(12, 20), (3, 5), (11, 7), (6, 10), (1, 1)])
def test_constants_stay_and_sums_add_up(size):
    a, b = jnp.asarray(normal(1, 6, 10, 2)), jnp.asarray(normal(1, 6, 10, 2, seed=1))
    np.testing.assert_allclose(resize(jnp.full_like(a, 0.7), size), 0.7, rtol=1e-6)
    together = resize(3 * a - 2 * b, size)
    np.testing.assert_allclose(together, 3 * resize(a, size) - 2 * resize(b, size), atol=1e-5)


@pytest.mark.parametrize("size", [(12, 40), (3, 5), (11, 7), (6, 20)])
@each_form
def test_the_gradient_is_the_transpose(form, size):
    x, cotangent = normal(2, 6, 10, 3), normal(2, *size, 3, seed=1)
    pulled = jax.jit(lambda x, y: jax.vjp(lambda x: FORMS[form](x, size), x)[1](y)[0])(x, cotangent)
    down, right = naive_matrix(6, size[0]), naive_matrix(10, size[1])
    expected = np.einsum("uh,vw,nuvc->nhwc", down, right, cotangent.astype(np.float64))
    np.testing.assert_allclose(pulled, expected, atol=1e-5)


@pytest.mark.parametrize("size", [(12, 40), (3, 5), (11, 7), (6, 10)])
def test_the_type_stays(size):
    x = normal(1, 6, 10, 2)
    y = resize(jnp.asarray(x, jnp.bfloat16), size)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y, np.float32), naive_resize(x, size), atol=0.05)
