"""The annotations' shapes are checked while the tests run, and cost nothing in use."""

import inspect
import sys

import jax.numpy as jnp
import jaxtyping
import pytest

from cffm_jax.models.kmeans import kmeans
from cffm_jax.models.normalise import normalise

from helpers import runs, shapes


def test_wrong_arrays_are_refused():
    frames = jnp.zeros((2, 4, 4, 3), jnp.uint8)
    for wrong in (frames.astype(jnp.float32), frames[..., :2], frames[0, 0]):
        with pytest.raises(jaxtyping.TypeCheckError, match="frames"):
            normalise(wrong)
    with pytest.raises(jaxtyping.TypeCheckError, match="size"):
        normalise(frames, jnp.zeros((3, 2), jnp.int32))


def test_nothing_is_checked_in_use():
    modules = [name for name in shapes.CHECKED if name in sys.modules]
    assert inspect.unwrap(kmeans) is not kmeans and modules
    program = "import inspect, sys\nfrom cffm_jax.models.kmeans import kmeans\n"
    program += "print(inspect.unwrap(kmeans) is kmeans, 'beartype' in sys.modules)"
    status, out, err = runs.finished("-c", program)
    assert status == 0 and out.split() == ["True", "False"], err
