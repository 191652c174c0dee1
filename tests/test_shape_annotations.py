"""The annotations' shapes are checked while the tests run, and cost nothing in use."""

import importlib.util
import inspect

import jax.numpy as jnp
import jaxtyping
import pytest

from cffm_jax.models import pyramid
from cffm_jax.models.create import create_model
from cffm_jax.models.kmeans import kmeans
from cffm_jax.models.normalise import normalise

from helpers import runs, shapes


def test_wrong_arrays_are_refused():
    frames = jnp.zeros((2, 4, 4, 3), jnp.uint8)
    for wrong in (frames.astype(jnp.float32), frames[..., :2]):
        with pytest.raises(ValueError, match="frames are"):
            normalise(wrong)
    with pytest.raises(jaxtyping.TypeCheckError, match="frames"):
        normalise(frames[0, 0])
    with pytest.raises(jaxtyping.TypeCheckError, match="size"):
        normalise(frames, jnp.zeros((3, 2), jnp.int32))


def test_methods_are_checked():
    for name in shapes.CHECKED:
        assert importlib.util.find_spec(name), name
    with pytest.raises(jaxtyping.TypeCheckError, match="frames"):
        create_model("cffm_b0", 3).apply({}, jnp.zeros((32, 32, 3)), method="encode")
    with pytest.raises(jaxtyping.TypeCheckError, match="pyramid"):
        pyramid.pyramid(jnp.zeros((32, 32, 3)))


def test_nothing_is_checked_in_use():
    assert inspect.unwrap(kmeans) is not kmeans
    program = "import inspect, sys\nfrom cffm_jax.models.kmeans import kmeans\n"
    program += "print(inspect.unwrap(kmeans) is kmeans, 'beartype' in sys.modules)"
    status, out, err = runs.finished("-c", program)
    assert status == 0 and out.split() == ["True", "False"], err
