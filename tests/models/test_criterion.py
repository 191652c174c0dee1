"""The losses beside the papers' cross-entropy, against their definitions in NumPy, float64."""

import jax
import numpy as np
import pytest

from cffm_jax.config import Config, LossConfig, ModelConfig
from cffm_jax.config.checks import check_settings
from cffm_jax.errors import InputError
from cffm_jax.models.criterion import make_criterion
from cffm_jax.models.losses import cross_entropy

from helpers.resizes import naive_resize

B, K = 2, 4
SMALL, FULL = (3, 4), (9, 12)
WEIGHTS = (0.5, 2.0, 0.0, 1.5)
PLANS = {
    "weights": LossConfig(class_weights=WEIGHTS),
    "smoothing": LossConfig(label_smoothing=0.1),
    "weights and smoothing": LossConfig(class_weights=WEIGHTS, label_smoothing=0.2),
    "focal": LossConfig(cross_entropy=0, focal=1, focal_gamma=2),
    "weighted focal": LossConfig(cross_entropy=0, focal=3, focal_gamma=0.5, class_weights=WEIGHTS),
    "dice": LossConfig(cross_entropy=0, dice=1),
    "OHEM by threshold": LossConfig(ohem_threshold=0.3, ohem_kept=1),
    "OHEM by number": LossConfig(ohem_threshold=1e-6, ohem_kept=20),
    "labelled pixels": LossConfig(mean="labelled"),
    "VSPW's baselines": LossConfig(resized="log_probabilities", mean="labelled"),
    "theirs in a sum": LossConfig(1, 1, 2, 1, WEIGHTS, 0.1, resized="log_probabilities", mean="labelled"),
    "all": LossConfig(0.5, 2.0, 1.5, 0.7, WEIGHTS, 0.1, 0.4, 10),
}


def make(ignored=0.3):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, K, (B, *FULL)).astype(np.uint8)
    labels[rng.random(labels.shape) < ignored] = 255
    return 2 * rng.standard_normal((B, *SMALL, K)).astype(np.float32), labels


def by_pixel(plan, logits, labels):
    """The definition, a pixel at a time."""

    def normalised(logits):
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    full, size = logits.astype(np.float64), labels.shape[1:]
    logs = naive_resize(normalised(full), size) if "_" in plan.resized else normalised(naive_resize(full, size))
    shares = np.exp(logs)
    weights = plan.class_weights or (1,) * K
    places = [place for place in np.ndindex(labels.shape) if labels[place] != 255]
    right = {place: shares[place][labels[place]] for place in places}
    hard, count = places, labels.size if plan.mean == "all" else len(places)
    if plan.ohem_threshold:
        hard = sorted(places, key=right.get)
        hard = [place for i, place in enumerate(hard) if i < plan.ohem_kept or right[place] <= plan.ohem_threshold]
        count = max(1, len(hard))
    total = 0.0
    for place in hard:
        weight, p = weights[labels[place]], right[place]
        spread = -np.mean([w * np.log(share) for w, share in zip(weights, shares[place])])
        smoothed = -(1 - plan.label_smoothing) * weight * np.log(p) + plan.label_smoothing * spread
        total += (plan.cross_entropy * smoothed - plan.focal * weight * (1 - p) ** plan.focal_gamma * np.log(p)) / count
    lost = []
    for k in set(labels[labels != 255]) if plan.dice else ():
        overlap = sum(shares[place][k] for place in places if labels[place] == k)
        lost.append(1 - 2 * overlap / (sum(shares[place][k] for place in places) + (labels == k).sum()))
    return total + plan.dice * (np.mean(lost) if lost else 0.0)


@pytest.mark.parametrize("name", PLANS)
def test_values_and_gradients_are_the_definitions(name):
    """Gradients against differences of the definition, in a few directions."""
    plan, (logits, labels) = PLANS[name], make()
    value, gradient = jax.jit(jax.value_and_grad(make_criterion(plan)))(logits, labels)
    np.testing.assert_allclose(value, by_pixel(plan, logits, labels), rtol=2e-6)
    for seed in range(2):
        way = np.random.default_rng(seed).standard_normal(logits.shape)
        step = 1e-6 * way
        slope = (by_pixel(plan, logits + step, labels) - by_pixel(plan, logits - step, labels)) / 2e-6
        np.testing.assert_allclose(np.sum(gradient * way), slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", PLANS)
def test_ignored_pixels_have_no_part(name):
    criterion, (logits, labels) = jax.jit(jax.value_and_grad(make_criterion(PLANS[name]))), make()
    labels[0] = 255
    value, gradient = criterion(logits, labels)
    logits[0] += 5 * np.random.default_rng(1).standard_normal(logits[0].shape)
    again, other = criterion(logits, labels)
    assert value == again > 0 and not np.any(gradient[0]) and not np.any(other[0])
    nothing, flat = criterion(logits, np.full_like(labels, 255))
    assert nothing == 0 and not np.any(flat)


def test_certain_pixels_have_gradients():
    """Where rounding makes the probability of a label 1, the focal loss has no gradient, and it is finite."""
    labels = np.zeros((1, *SMALL), np.uint8)
    logits = np.zeros((1, *SMALL, K), np.float32)
    logits[..., 0] = 200
    for gamma in (0.0, 0.5, 2.0):
        criterion = make_criterion(LossConfig(cross_entropy=0, focal=1, focal_gamma=gamma))
        value, gradient = jax.value_and_grad(criterion)(logits, labels)
        assert value == 0 and np.isfinite(gradient).all()


def test_the_papers_loss_is_the_default():
    assert make_criterion(LossConfig()) is cross_entropy
    # As a sum of one it is the same, up to rounding.
    logits, labels = make()
    ones = make_criterion(LossConfig(class_weights=(1.0,) * K))
    np.testing.assert_allclose(ones(logits, labels), cross_entropy(logits, labels), rtol=1e-6)


def test_log_probabilities_and_logits_are_one_at_the_labels_size():
    rng = np.random.default_rng(3)
    logits, labels = rng.standard_normal((B, *SMALL, K)).astype(np.float32), rng.integers(0, K, (B, *SMALL))
    other = jax.jit(make_criterion(LossConfig(resized="log_probabilities")))
    np.testing.assert_allclose(other(logits, labels), jax.jit(cross_entropy)(logits, labels), rtol=1e-6)


def test_the_mean_over_labelled_pixels_does_not_depend_on_the_others():
    """One loss for all pixels: the mean over the labelled ones is that, over all their share of it."""
    logits, labels = np.broadcast_to(np.arange(K, dtype=np.float32), (B, *SMALL, K)), np.zeros((B, *FULL), np.uint8)
    labels[:, ::2] = 255
    expected = np.log(np.exp(np.arange(K)).sum())
    labelled, every = (jax.jit(make_criterion(LossConfig(mean=mean))) for mean in ("labelled", "all"))
    np.testing.assert_allclose(labelled(logits, labels), expected, rtol=1e-6)
    np.testing.assert_allclose(every(logits, labels), expected * np.mean(labels == 0), rtol=1e-6)


@pytest.mark.parametrize("full", [(16, 24), (13, 24), (7, 5), (4, 6), (2, 3)])
def test_the_sum_by_transposed_labels_is_the_enlarged_one(full):
    """Of sizes that the plain form computes without enlarging, and the sum of losses does not."""
    rng = np.random.default_rng(0)
    logits = 3 * rng.standard_normal((B, 4, 6, K)).astype(np.float32)
    labels = rng.choice([*range(K), 255], (B, *full)).astype(np.uint8)
    form = {"resized": "log_probabilities", "mean": "labelled"}
    ones = LossConfig(class_weights=(1.0,) * K, **form)
    plain, summed = (jax.jit(jax.value_and_grad(make_criterion(plan))) for plan in (LossConfig(**form), ones))
    for ours, theirs in zip(plain(logits, labels), summed(logits, labels)):
        np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (LossConfig(class_weights=(1.0, 2.0)), "--loss.class-weights: has 2 numbers; give 19, one for each class"),
        (LossConfig(cross_entropy=0), "--loss.cross-entropy: no loss has a weight above 0; give one of the three"),
        (LossConfig(label_smoothing=1.0), "--loss.label-smoothing: is 1.0; give at least 0 and less than 1"),
        (LossConfig(class_weights=(float("nan"),) * 19), "--loss.class-weights: is "),
    ],
)
def test_losses_that_are_none(loss, said):
    with pytest.raises(InputError) as error:
        check_settings(Config(model=ModelConfig(num_classes=19), loss=loss))
    assert str(error.value).startswith(said)
