"""The training loss against the definition in NumPy, float64."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cffm_jax.models import cross_entropy as cross_entropy_module
from cffm_jax.models.cross_entropy import in_parts, within_sums
from cffm_jax.models.losses import clip_loss, cross_entropy

from helpers.resizes import naive_matrix, naive_resize

value_and_grad = jax.jit(jax.value_and_grad(cross_entropy))
forms = pytest.mark.parametrize("form", [in_parts, within_sums], ids=lambda form: form.__name__)
"""Of the sum and its gradient: that of CPUs, and that of all other platforms."""

B, T, K = 2, 4, 5
SMALL, FULL = (4, 6), (13, 24)


def make(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clip logits, frame logits, labels with some pixels ignored."""
    rng = np.random.default_rng(seed)
    logits = 3 * rng.standard_normal((B, *SMALL, K)).astype(np.float32)
    frame_logits = 3 * rng.standard_normal((B, T, *SMALL, K)).astype(np.float32)
    labels = rng.integers(0, K, (B, T, *FULL)).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.3] = 255
    return logits, frame_logits, labels


@jax.jit
def jitted_loss(logits, frame_logits, labels, **options):
    return clip_loss(SimpleNamespace(logits=logits, frame_logits=frame_logits), labels, **options)


def naive_cross_entropy(logits: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """The value and the gradient by ``logits``."""
    full = naive_resize(logits, labels.shape[1:])
    shares = np.exp(full - full.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    total, by_full = 0.0, np.zeros_like(full)
    for place in np.ndindex(labels.shape):
        if labels[place] != 255:
            total -= np.log(shares[place][labels[place]])
            by_full[place] = shares[place] - np.eye(full.shape[-1])[labels[place]]
    down, right = naive_matrix(logits.shape[1], full.shape[1]), naive_matrix(logits.shape[2], full.shape[2])
    gradient = np.einsum("uh,vw,nuvc->nhwc", down, right, by_full)
    return total / labels.size, gradient / labels.size


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_value_and_gradient_are_the_definition(dtype):
    logits, _, labels = make()
    value, gradient = value_and_grad(logits, labels[:, 0].astype(dtype))
    expected, expected_gradient = naive_cross_entropy(logits, labels[:, 0])
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-7)


@forms
@pytest.mark.parametrize(
    ("small", "full"),
    [
        ((4, 6), (16, 24)),
        ((4, 6), (13, 24)),
        ((5, 3), (7, 12)),
        ((4, 6), (4, 6)),
        ((1, 2), (3, 2)),
        ((8, 6), (4, 3)),
        ((9, 7), (4, 5)),
    ],
)
def test_both_forms_are_the_definition_at_any_sizes(form, small, full):
    rng = np.random.default_rng(6)
    logits = 3 * rng.standard_normal((B, *small, K)).astype(np.float32)
    labels = rng.integers(0, K, (B, *full)).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.3] = 255
    value, gradient = jax.jit(form)(logits, labels)
    expected, expected_gradient = naive_cross_entropy(logits, labels)
    np.testing.assert_allclose(value / labels.size, expected, rtol=2e-6)
    np.testing.assert_allclose(gradient / labels.size, expected_gradient, atol=1e-7)


@pytest.mark.parametrize("rows", [1, 2, 13])
def test_parts_are_one_loss_whatever_their_size(monkeypatch, rows):
    logits, _, labels = make()
    value, gradient = in_parts(logits, labels[:, 0])
    monkeypatch.setattr(cross_entropy_module, "_CACHED", rows * logits[:, 0, 0].nbytes * FULL[1])
    again, its_gradient = in_parts(logits, labels[:, 0])
    np.testing.assert_allclose(again, value, rtol=1e-6)
    np.testing.assert_allclose(its_gradient, gradient, atol=1e-5)


def test_ignored_pixels_count_as_zero_in_the_mean():
    logits, _, labels = make()
    labels = labels[:, 0] % K
    whole = value_and_grad(logits[:1], labels[:1])[0]
    half = labels.copy()
    half[1] = 255
    np.testing.assert_allclose(value_and_grad(logits, half)[0], whole / 2, rtol=1e-6)


def test_without_a_labelled_pixel_the_loss_and_its_gradient_are_zero():
    logits, frame_logits, labels = make()
    labels[:] = 255
    loss, parts = jitted_loss(logits, frame_logits, labels)
    assert loss == 0 and parts.clip == 0 and parts.frames == 0
    value, gradient = value_and_grad(logits, labels[:, 0])
    assert value == 0 and not np.any(gradient)


def test_equal_logits_cost_the_logarithm_of_the_number_of_classes():
    labels = make()[2][:, 0] % K
    value, _ = value_and_grad(np.zeros((B, *SMALL, K), np.float32), labels)
    np.testing.assert_allclose(value, np.log(K), rtol=3e-6)


@forms
def test_huge_logits_are_no_overflow(form):
    labels = np.zeros((1, 8, 8), np.uint8)
    logits = np.zeros((1, 4, 4, K), np.float32)
    logits[..., 1] = 1e4
    form = jax.jit(form)
    value, gradient = form(logits, labels)
    np.testing.assert_allclose(value / labels.size, 1e4, rtol=1e-6)
    assert np.isfinite(gradient).all()
    assert form(logits, labels + 1)[0] == 0


@pytest.mark.parametrize("weight", [0.5, 0.0, 2.0])
def test_the_frames_add_their_mean_times_the_weight(weight):
    logits, frame_logits, labels = make(1)
    value, parts = jitted_loss(logits, frame_logits, labels, frame_weight=weight)
    clip = naive_cross_entropy(logits, labels[:, -1])[0]
    frames = naive_cross_entropy(frame_logits.reshape(-1, *SMALL, K), labels.reshape(-1, *FULL))[0]
    np.testing.assert_allclose(parts.clip, clip, rtol=1e-6)
    np.testing.assert_allclose(parts.frames, frames, rtol=1e-6)
    np.testing.assert_allclose(value, clip + weight * frames, rtol=1e-6)


def test_where_the_target_alone_is_labelled_its_own_frame_logits_count_whole():
    """Cityscapes: 0.5 * CE(per-frame logits of the target) + CE(CFFM logits), not a quarter of it over four frames."""
    logits, frame_logits, labels = make(5)
    value, parts = jitted_loss(logits, frame_logits, labels[:, -1:])
    clip = naive_cross_entropy(logits, labels[:, -1])[0]
    frames = naive_cross_entropy(frame_logits[:, -1], labels[:, -1])[0]
    np.testing.assert_allclose(parts.frames, frames, rtol=1e-6)
    np.testing.assert_allclose(value, clip + 0.5 * frames, rtol=1e-6)
    ignored = labels.copy()
    ignored[:, :-1] = 255
    np.testing.assert_allclose(jitted_loss(logits, frame_logits, ignored)[1].frames, frames / T, rtol=1e-6)


def test_half_is_the_papers_weight():
    logits, frame_logits, labels = make(2)
    loss, parts = jitted_loss(logits, frame_logits, labels)
    np.testing.assert_allclose(loss, parts.clip + 0.5 * parts.frames, rtol=1e-6)


def test_gradients_reach_both_kinds_of_logits():
    logits, frame_logits, labels = make(3)

    by_clip, by_frames = jax.jit(jax.grad(jitted_loss, (0, 1), has_aux=True))(logits, frame_logits, labels)[0]
    np.testing.assert_allclose(by_clip, naive_cross_entropy(logits, labels[:, -1])[1], atol=1e-7)
    flat = naive_cross_entropy(frame_logits.reshape(-1, *SMALL, K), labels.reshape(-1, *FULL))[1]
    np.testing.assert_allclose(by_frames, 0.5 * flat.reshape(frame_logits.shape), atol=1e-7)


def test_logits_of_half_precision_are_summed_in_float32():
    logits, _, labels = make(4)
    halves = jnp.asarray(logits, jnp.bfloat16)
    value, gradient = value_and_grad(halves, labels[:, 0])
    assert value.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(value, naive_cross_entropy(np.asarray(halves, np.float32), labels[:, 0])[0], rtol=1e-6)
