"""The losses of a teacher's outputs, beside the sums that they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import rel_entr, softmax

from cffm_jax.models.distillation import FEATURES, LOGITS, FrameOutputs, distillation, pair_loss, pixel_loss


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def all_pairs(features, taught, xp=np):
    """The squared differences of all cosines, written out."""

    def cosines(x):
        x = x.reshape(*x.shape[:2], -1, x.shape[-1])
        x = x / xp.linalg.norm(x, axis=-1, keepdims=True)
        return xp.einsum("bic,bjc->bij", x[:, 0], x[:, 1])

    return xp.mean((cosines(features) - cosines(taught)) ** 2)


@pytest.mark.parametrize(("width", "other"), [(3, 3), (4, 40), (40, 4)])
def test_pairs_are_those_of_all_pixels_of_two_frames(width, other):
    student, teacher = drawn(2, 2, 3, 5, width), drawn(2, 2, 3, 5, other, seed=1) + 0.5
    expected = all_pairs(student.astype(np.float64), teacher.astype(np.float64))
    assert float(pair_loss(student, teacher)) == pytest.approx(expected, rel=1e-5)
    gradient = jax.grad(pair_loss)(student, teacher)
    np.testing.assert_allclose(gradient, jax.grad(all_pairs)(student, teacher, jnp), atol=1e-6)


def test_pairs_do_not_tell_lengths_and_rotations():
    student = drawn(1, 2, 4, 4, 6)
    turned = np.linalg.qr(drawn(6, 6, seed=2))[0]
    assert abs(float(pair_loss(student, 3 * student @ turned))) < 1e-6
    assert float(pair_loss(student, -student[:, ::-1] + 1)) > 1e-2


def test_features_of_zeros_have_a_gradient():
    student = np.zeros((1, 2, 2, 2, 3), np.float32)
    assert np.isfinite(jax.grad(pair_loss)(student, drawn(1, 2, 2, 2, 3))).all()


def test_pixels_are_the_divergence_of_the_student_from_the_teacher():
    student, teacher = drawn(2, 3, 4, 5), 3 * drawn(2, 3, 4, 5, seed=1)
    expected = rel_entr(softmax(teacher, -1), softmax(student, -1)).sum(-1).mean()
    assert float(pixel_loss(student, teacher)) == pytest.approx(expected, rel=1e-5)
    assert abs(float(pixel_loss(teacher, teacher + 7))) < 1e-6


def test_a_teacher_of_another_stride_and_width():
    """Its maps are resized, clip by clip, by pixels' middles."""
    outputs = FrameOutputs(drawn(4, 4, 6, 3), drawn(4, 4, 6, 5, seed=1))
    features, logits = drawn(2, 2, 8, 12, 7, seed=2), drawn(2, 2, 8, 12, 5, seed=3)
    # Half the size: each pixel lies amid four.
    small, wanted = (x.reshape(2, 2, 4, 2, 6, 2, -1).mean((3, 5)) for x in (features, logits))
    parts = distillation(outputs, {FEATURES: features, LOGITS: logits})
    pairs = outputs.features.reshape(2, 2, 4, 6, 3)
    assert float(parts["pair_loss"]) == pytest.approx(all_pairs(pairs.astype(np.float64), small), rel=1e-4)
    student, teacher = softmax(outputs.logits, -1), softmax(wanted.reshape(4, 4, 6, 5), -1)
    assert float(parts["pixel_loss"]) == pytest.approx(rel_entr(teacher, student).sum(-1).mean(), rel=1e-4)
    assert distillation(outputs, {}) == {}
