"""Masks from logits without the full-size logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cffm_jax.inference.argmax import (
    _possible,
    masks_at_once,
    masks_by_class,
    scores_at_once,
    scores_by_class,
    winner_scores,
)
from cffm_jax.models.resize import resize_bilinear

from helpers.resizes import naive_resize

# By users' loops: the suite's (conftest.py) round a score that is kept otherwise than the one that is compared.
FORMS = {
    name: jax.jit(form, static_argnums=(1, 2), compiler_options={"xla_cpu_use_fusion_emitters": True})
    for name, form in {"by class": masks_by_class, "at once": masks_at_once}.items()
}
"""That of CPUs, and that of all other platforms."""
resize = jax.jit(resize_bilinear, static_argnums=1)

SIZES = [
    pytest.param((24, 40), (24, 40), id="the frame's own size"),
    pytest.param((24, 40), (19, 33), id="smaller"),
    pytest.param((24, 40), (54, 77), id="larger"),
    pytest.param((24, 40), (12, 20), id="half"),
    pytest.param((24, 40), (24, 33), id="narrower"),
    pytest.param((24, 40), (19, 40), id="lower"),
    pytest.param((32, 32), (1, 3), id="tiny"),
]


@pytest.fixture(params=FORMS)
def masks_of(request):
    return FORMS[request.param]


def logits_of(seed: int, classes: int = 7, n: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 6, 10, classes)).astype(np.float32)


@pytest.mark.parametrize(("input_size", "output_size"), SIZES)
def test_masks_are_the_arg_max_of_the_twice_resized_logits(masks_of, input_size, output_size):
    logits = logits_of(0)
    masks = masks_of(logits, input_size, output_size)
    assert masks.shape == (2, *output_size) and masks.dtype == jnp.uint8
    full = naive_resize(naive_resize(logits, input_size), output_size)
    first, second = np.sort(full, -1)[..., -1], np.sort(full, -1)[..., -2]
    clear = first - second > 1e-5
    assert clear.mean() > 0.99 or masks.size < 100
    np.testing.assert_array_equal(np.asarray(masks)[clear], full.argmax(-1)[clear])


@pytest.mark.parametrize(("input_size", "output_size"), SIZES)
def test_masks_equal_those_of_the_full_size_logits(masks_of, input_size, output_size):
    logits = jnp.asarray(logits_of(1))
    full = resize(resize(logits, input_size), output_size)
    agree = np.asarray(masks_of(logits, input_size, output_size)) == np.asarray(full.argmax(-1))
    first, second = np.sort(full, -1)[..., -1], np.sort(full, -1)[..., -2]
    assert np.all(agree | (first - second < 1e-6))


def test_of_odd_sizes_and_other_ratios_too(masks_of):
    logits = np.random.default_rng(5).standard_normal((1, 5, 7, 9)).astype(np.float32)
    for input_size, output_size in [((20, 28), (21, 29)), ((10, 35), (31, 35)), ((13, 9), (40, 3))]:
        full = naive_resize(naive_resize(logits, input_size), output_size)
        first, second = np.sort(full, -1)[..., -1], np.sort(full, -1)[..., -2]
        agree = np.asarray(masks_of(logits, input_size, output_size)) == full.argmax(-1)
        assert np.all(agree | (first - second < 1e-5))


@pytest.mark.parametrize("form", [scores_by_class, scores_at_once, winner_scores], ids=lambda form: form.__name__)
@pytest.mark.parametrize(("input_size", "output_size"), SIZES)
def test_scores_are_the_softmax_of_the_full_size_logits(form, input_size, output_size):
    logits = 3 * logits_of(4)
    full = naive_resize(naive_resize(logits, input_size), output_size).astype(np.float64)
    expected = np.exp(full).max(-1) / np.exp(full).sum(-1)
    form = jax.jit(form, static_argnums=(1, 2))
    scores = form(logits, input_size, output_size)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    np.testing.assert_allclose(form(logits + 500, input_size, output_size), expected, atol=1e-4)


def test_the_two_resizes_are_not_one(masks_of):
    """At the frame's size first, as the release does: going straight to the original size gives other masks."""
    logits = jnp.asarray(logits_of(2, n=8))
    twice = masks_of(logits, (24, 40), (15, 26))
    once = resize(logits, (15, 26)).argmax(-1)
    assert np.any(np.asarray(twice) != np.asarray(once))


@pytest.mark.parametrize("best", [(0, 1, 2, 3, 4, 5, 6), (3, 5), (2, 6), (0, 6)])
def test_the_first_of_equals_wins(masks_of, best):
    logits = np.full((1, 6, 10, 7), -1.0, np.float32)
    logits[..., best] = logits_of(3, 1, 1)  # The same values in all of the best: exact ties.
    logits[..., best] = np.abs(logits[..., best])
    assert np.all(np.asarray(masks_of(jnp.asarray(logits), (24, 40), (19, 33))) == best[0])


@pytest.mark.parametrize("classes", [1, 2, 124, 255])
def test_every_class_can_win(masks_of, classes):
    """One pixel each, so class numbers up to the largest survive the scan."""
    winners = np.arange(300) % classes
    logits = jnp.asarray(np.eye(classes, dtype=np.float32)[winners].reshape(1, 15, 20, classes) - 5)
    masks = masks_of(logits, (15, 20), (15, 20))
    np.testing.assert_array_equal(np.asarray(masks).ravel(), winners)


@pytest.mark.parametrize(("input_size", "output_size"), SIZES[1:4])
def test_only_classes_that_win_nowhere_are_left_out(input_size, output_size):
    smooth = naive_resize(logits_of(4, 40)[:, :3, :4] - np.arange(40) / 4, (6, 10)).astype(np.float32)
    possible = np.asarray(jax.jit(_possible, static_argnums=(1, 2))(smooth, input_size, output_size))
    assert 0 < possible.sum() < 40
    full = np.asarray(resize(resize(jnp.asarray(smooth), input_size), output_size))
    assert possible[np.unique(full.argmax(-1))].all()
    masks = np.asarray(FORMS["by class"](smooth, input_size, output_size))
    first, second = np.sort(full, -1)[..., -1], np.sort(full, -1)[..., -2]
    assert np.all((masks == full.argmax(-1)) | (first - second < 1e-6))


def test_no_class_is_left_out_where_the_second_resize_reaches_further(masks_of):
    """The frame's size below the logits': two of its pixels lie more than a logit apart."""
    logits = np.full((1, 6, 10, 3), -1.0, np.float32)
    logits[..., 1] = 1.0
    logits[:, 3, 5, 2] = 50.0
    full = np.asarray(resize(resize(jnp.asarray(logits), (2, 3)), (7, 9)))
    np.testing.assert_array_equal(np.asarray(masks_of(logits, (2, 3), (7, 9))), full.argmax(-1))


def test_a_logit_that_is_no_number_leaves_no_class_out():
    logits = np.array([0.0, 5.0, -9.0], np.float32) * np.ones((1, 6, 10, 3), np.float32)
    logits[0, 0, 0, 2] = np.nan
    assert np.asarray(_possible(jnp.asarray(logits), (24, 40), (24, 40))).all()
    masks = np.asarray(FORMS["by class"](logits, (24, 40), (24, 40)))
    assert np.all(masks[0, 8:, 8:] == 1)
