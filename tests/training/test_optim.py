"""AdamW and SGD, their two groups, decay masks and schedule, against the formulas in NumPy."""

import re
from collections.abc import Sequence

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cffm_jax
from cffm_jax.config import OptimConfig
from cffm_jax.models.variables import variable_shapes
from cffm_jax.training.optim import learning_rate, make_optimizer
from cffm_jax.weights.naming.match import key_map

PAPER, STEPS = OptimConfig(), 160_000
MODEL = cffm_jax.create_model("cffm_b0", 2)
CONSTANT = OptimConfig(rate=1e-2, warmup_steps=0, power=0.0)

TREE = {
    "encoder": {
        "stage1": {
            "embed": {"kernel": (3, 2), "bias": (2,)},
            "embed_norm": {"scale": (2,), "bias": (2,)},
            "block0": {"norm1": {"scale": (2,)}, "attn": {"q": {"kernel": (2, 2)}, "reduce_norm": {"bias": (2,)}}},
            "norm": {"scale": (2,)},
        }
    },
    "decoder": {"norm": {"scale": (4,)}, "fuse": (4, 2, 2)},
    "local_0": {"norm1": {"scale": (3,)}, "bias_own": (2, 3, 3)},
}
WITHOUT_DECAY = {
    "encoder/stage1/embed_norm/scale",
    "encoder/stage1/embed_norm/bias",
    "encoder/stage1/block0/norm1/scale",
    "encoder/stage1/block0/attn/reduce_norm/bias",
    "encoder/stage1/norm/scale",
}

SPARED = {
    "but_encoder_norms": r"^encoder/.*(norm\d*/\w+|gamma)$",
    "all": r"^$",
    "but_biases": r"/bias$",
    "but_norms_and_biases": r"/(bias|scale|gamma)$",
}
"""``optim.decay`` -> the paths without."""


def flat(tree: dict) -> dict[str, np.ndarray]:
    return flax.traverse_util.flatten_dict(tree, sep="/")


def draw(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: rng.standard_normal(shape).astype(np.float32), TREE, is_leaf=lambda x: isinstance(x, tuple)
    )


def scheduled(i: int) -> float:
    """The specification's formula, float64."""
    rate = 6e-5 * (1 - i / 160_000)
    return rate * (1 - (1 - i / 1500) * (1 - 1e-6)) if i < 1500 else rate


def updated(config: OptimConfig, steps: int, gradients: Sequence[dict]) -> list[dict[str, np.ndarray]]:
    """The parameters, from ``draw(0)``, after each step."""
    params = draw(0)
    optimizer = make_optimizer(config, steps, MODEL)
    state = optimizer.init(params)
    history = []

    @jax.jit
    def step(gradient, state, params):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    for gradient in gradients:
        params, state = step(gradient, state, params)
        history.append(flat(params))
    return history


def adamw(start: np.ndarray, gradients: Sequence[np.ndarray], rates: Sequence[float], decay: float) -> list[np.ndarray]:
    """Decoupled weight decay (Loshchilov and Hutter), with PyTorch's epsilon outside the root, float64."""
    weight = start.astype(np.float64)
    first, second = np.zeros_like(weight), np.zeros_like(weight)
    history = []
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient.astype(np.float64) ** 2
        step = (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
        weight = weight - rate * decay * weight - rate * step
        history.append(weight)
    return history


@pytest.mark.parametrize("i", [0, 1, 10, 749, 1499, 1500, 1501, 80_000, 159_999, 160_000])
def test_the_papers_schedule(i):
    # float32 cannot tell 1 - 1e-6 better than to 6e-8 of the rate.
    np.testing.assert_allclose(learning_rate(PAPER, STEPS)(i), scheduled(i), rtol=1e-5, atol=6e-5 * 6e-8)


def test_the_ends_of_the_schedule():
    rate = learning_rate(PAPER, STEPS)
    assert 0 < rate(0) < 1e-10
    np.testing.assert_allclose(rate(1500), 6e-5 * (1 - 1500 / 160_000), rtol=1e-6)
    assert rate(STEPS) == 0 and rate(STEPS + 10) == 0


def test_the_schedule_is_linear_after_the_warm_up():
    rates = np.asarray(jax.vmap(learning_rate(PAPER, STEPS))(jnp.arange(1500, STEPS, 500)), np.float64)
    np.testing.assert_allclose(np.diff(rates), -6e-5 * 500 / STEPS, rtol=1e-3)


def test_the_warm_up_rises():
    rates = np.asarray(jax.vmap(learning_rate(PAPER, STEPS))(jnp.arange(1501)), np.float64)
    assert np.all(np.diff(rates) > 0)
    share = rates[1:1500] / (6e-5 * (1 - np.arange(1, 1500) / STEPS))
    np.testing.assert_allclose(share, np.arange(1, 1500) / 1500, atol=2e-6)


def test_other_schedules():
    assert learning_rate(CONSTANT, 10)(0) == learning_rate(CONSTANT, 10)(9) == np.float32(1e-2)
    square = learning_rate(OptimConfig(rate=1.0, warmup_steps=0, power=2.0), 10)
    np.testing.assert_allclose([square(i) for i in range(11)], [(1 - i / 10) ** 2 for i in range(11)], atol=1e-6)
    halfway = learning_rate(OptimConfig(rate=1.0, warmup_steps=4, warmup_ratio=0.5, power=0.0), 100)
    np.testing.assert_allclose([halfway(i) for i in range(6)], [0.5, 0.625, 0.75, 0.875, 1, 1], atol=1e-6)


def test_the_rate_falls_to_the_least():
    """MMSegmentation's poly schedule, of Cityscapes' recipe."""
    rate = learning_rate(OptimConfig(rate=0.01, least_rate=1e-4, warmup_steps=0, power=0.9), 80_000)
    expected = [(0.01 - 1e-4) * (1 - i / 80_000) ** 0.9 + 1e-4 for i in (0, 40_000, 79_999, 80_000)]
    np.testing.assert_allclose([rate(i) for i in (0, 40_000, 79_999, 80_000)], expected, rtol=1e-6, atol=1e-9)
    assert rate(0) == np.float32(0.01) and rate(80_000) == rate(90_000) == np.float32(1e-4)


def test_masks_of_the_small_tree():
    paths = flat(draw(0))
    assert {path for path in paths if not MODEL.decays(path.split("/"))} == WITHOUT_DECAY
    assert {path for path in paths if MODEL.rate_group(path.split("/")) == "encoder"} == {
        path for path in paths if path[:7] == "encoder"
    }


@pytest.mark.parametrize("name", ["cffm_b1", "cffm_pvtv2_b0", "segformer_convnext_tiny"])
def test_masks_of_a_model_are_those_of_the_release(name):
    """By the release's keys: no decay for `norm` in the backbone, ten times the rate for the decode head.

    ConvNeXt's norms are not all called so, and its layer scales have none either.
    """
    model = cffm_jax.create_model(name, 124)
    params = variable_shapes(model)["params"]
    decays = {path: model.decays(path.split("/")) for path in flat(params)}
    head = {path: model.rate_group(path.split("/")) == "head" for path in flat(params)}
    theirs = {path: key for key, (collection, path, _, _) in key_map(model).items() if collection == "params"}
    assert set(theirs) == set(decays) == set(head)
    for path, key in theirs.items():
        assert head[path] == key.startswith("decode_head."), key
        spared = re.search(r"norm|downsample_layers\.(0\.1|[123]\.0)\.|\.gamma$", key)
        assert decays[path] == (key.startswith("decode_head.") or not spared), key
    spared = [params_leaf for path, params_leaf in flat(params).items() if not decays[path]]
    assert spared and all(leaf.ndim == 1 for leaf in spared), "norms have vectors only"
    assert any(head[path] and "norm" in path and decays[path] for path in head), "the head's norms decay"
    assert all(decays[path] for path in decays if path.endswith(("embed/bias", "reduce/bias"))), "biases decay"


def test_three_steps_are_adamws():
    config = OptimConfig(rate=1e-2, warmup_steps=2, warmup_ratio=0.1)
    gradients = [draw(seed) for seed in (1, 2, 3)]
    for gradient in gradients:  # So small that epsilon counts.
        gradient["local_0"]["norm1"]["scale"] *= 1e-8
    history = updated(config, 10, gradients)
    # 1 - i / 10, times 0.1 and 0.55 in the two iterations of the warm-up.
    rates = np.array([1e-2 * 1.0 * 0.1, 1e-2 * 0.9 * 0.55, 1e-2 * 0.8])
    for key, start in flat(draw(0)).items():
        times = 1 if key.startswith("encoder/") else 10
        decay = 0.0 if key in WITHOUT_DECAY else 0.01
        expected = adamw(start, [flat(gradient)[key] for gradient in gradients], times * rates, decay)
        for step, weight in enumerate(expected):
            # optax takes its bias corrections 1 - beta^t in float32: to 6e-8 of 2e-3 in the second step.
            np.testing.assert_allclose(history[step][key], weight, atol=3e-6, err_msg=f"{key}, {step}")


def sgd(start: np.ndarray, gradients: Sequence[np.ndarray], rates: Sequence[float], decay: float) -> list[np.ndarray]:
    """PyTorch's formula, float64: v <- 0.9 v + g + decay w; w <- w - rate v."""
    weight, velocity, history = start.astype(np.float64), np.zeros(start.shape), []
    for gradient, rate in zip(gradients, rates, strict=True):
        velocity = 0.9 * velocity + gradient + decay * weight
        weight = weight - rate * velocity
        history.append(weight)
    return history


@pytest.mark.parametrize("decay", SPARED)
def test_four_steps_are_sgds(decay):
    config = OptimConfig(
        "sgd", 1e-2, power=0.9, least_rate=1e-3, warmup_steps=0, weight_decay=0.1, decay=decay, head_multiplier=10.0
    )
    gradients = [draw(seed) for seed in (1, 2, 3, 4)]
    history = updated(config, 8, gradients)
    rates = (1e-2 - 1e-3) * (1 - np.arange(4) / 8) ** 0.9 + 1e-3
    for key, start in flat(draw(0)).items():
        times = 1 if key.startswith("encoder/") else 10
        share = 0.0 if re.search(SPARED[decay], key) else 0.1
        expected = sgd(start, [flat(gradient)[key] for gradient in gradients], times * rates, share)
        for step, weight in enumerate(expected):
            np.testing.assert_allclose(history[step][key], weight, atol=1e-6, err_msg=f"{key}, {step}")


@pytest.mark.parametrize("name", ["cffm_b0", "segformer_convnext_tiny"])
@pytest.mark.parametrize("decay", SPARED)
def test_which_parameters_of_a_model_decay(name, decay):
    """Without gradients SGD's first step is the decay alone."""
    model = cffm_jax.create_model(name, 2)
    optimizer = make_optimizer(OptimConfig("sgd", decay=decay), 10, model)
    shapes = variable_shapes(model)["params"]
    ones, zeros = (jax.tree.map(lambda leaf, x=x: np.full((1,), x, np.float32), shapes) for x in (1, 0))
    updates, _ = optimizer.update(zeros, optimizer.init(ones), ones)
    spared = re.compile(SPARED[decay])
    for key, update in flat(updates).items():
        assert (update[0] == 0) == bool(spared.search(key)), key


def test_without_gradients_the_weights_only_decay():
    zero = jax.tree.map(np.zeros_like, draw(0))
    history = updated(CONSTANT, 10, [zero] * 5)
    for key, start in flat(draw(0)).items():
        rate = 1e-2 if key.startswith("encoder/") else 1e-1
        share = 1.0 if key in WITHOUT_DECAY else (1 - rate * 0.01) ** 5
        np.testing.assert_allclose(history[-1][key], share * start, rtol=1e-6, err_msg=key)


def test_the_head_moves_ten_times_as_far():
    """Adam's first step is the sign of the gradient times the rate: without decay it shows each group's rate."""
    gradient = draw(1)
    config = OptimConfig(rate=1e-3, warmup_steps=0, power=0.0, weight_decay=0.0)
    after = updated(config, 10, [gradient])[0]
    for key, start in flat(draw(0)).items():
        rate = 1e-3 if key.startswith("encoder/") else 1e-2
        np.testing.assert_allclose(start - after[key], rate * np.sign(flat(gradient)[key]), rtol=1e-3, err_msg=key)


def test_gradients_are_clipped_by_their_norm_where_asked():
    params = {"encoder": {"kernel": jnp.ones(2)}, "bias": jnp.ones(1)}
    grads = {"encoder": {"kernel": jnp.float32([2.0, 3.0])}, "bias": jnp.float32([6.0])}  # Norm 7.
    for clip_norm, scale in ((0.0, 1.0), (3.5, 0.5), (8.0, 1.0)):
        optimizer = make_optimizer(OptimConfig(clip_norm=clip_norm), 10, MODEL)
        _, state = optimizer.update(grads, optimizer.init(params), params)
        adam = next(part for part in state if hasattr(part, "mu"))
        np.testing.assert_allclose(adam.mu["encoder"]["kernel"], 0.1 * scale * grads["encoder"]["kernel"], rtol=1e-6)
        np.testing.assert_allclose(adam.mu["bias"], 0.1 * scale * grads["bias"], rtol=1e-6)
