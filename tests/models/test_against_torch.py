"""Against PyTorch: pytest -m reference, with the reference extra."""

import io
import zipfile
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cffm_jax
from cffm_jax.config import LossConfig, OptimConfig
from cffm_jax.models.create import create_model
from cffm_jax.models.criterion import make_criterion
from cffm_jax.models.losses import clip_loss
from cffm_jax.models.resize import resize_bilinear
from cffm_jax.training.optim import make_optimizer
from cffm_jax.weights.files.read import read_state_dict

from helpers import golden_values

pytestmark = pytest.mark.reference


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# --- resize and loss -----------------------------------------------------------------------------------------------

SIZES_OF_MAPS = [
    ((6, 10), (12, 20)),
    ((6, 10), (24, 40)),
    ((3, 5), (24, 40)),
    ((6, 10), (3, 5)),
    ((14, 21), (12, 18)),
    ((6, 10), (6, 10)),
    ((6, 10), (17, 31)),
    ((17, 31), (6, 10)),
    ((24, 40), (5, 9)),
    ((1, 1), (4, 7)),
    ((2, 9), (9, 2)),
    ((30, 54), (480, 853)),
    ((120, 216), (30, 54)),
]


@pytest.mark.parametrize(("size_in", "size_out"), SIZES_OF_MAPS)
def test_resize_is_torchs(torch, size_in, size_out):
    x, cotangent = normal(2, *size_in, 3), normal(2, *size_out, 3, seed=1)
    theirs = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_()
    expected = torch.nn.functional.interpolate(theirs, size=size_out, mode="bilinear", align_corners=False)
    expected.backward(torch.from_numpy(cotangent.transpose(0, 3, 1, 2).copy()))

    @jax.jit
    def both(x, cotangent):
        y, pull = jax.vjp(lambda x: resize_bilinear(x, size_out), x)
        return y, pull(cotangent)[0]

    ours, gradient = both(x, cotangent)
    # torch computes source positions in float32: to 4e-6 at the 54th pixel, between neighbours that differ by up to 6.
    np.testing.assert_allclose(ours, expected.detach().numpy().transpose(0, 2, 3, 1), rtol=0, atol=5e-5)
    scale = max(1.0, size_out[0] * size_out[1] / (size_in[0] * size_in[1]))
    np.testing.assert_allclose(gradient, theirs.grad.numpy().transpose(0, 2, 3, 1), rtol=0, atol=2e-5 * scale)


@pytest.mark.parametrize("ignored", [0.0, 0.3, 1.0])
def test_the_loss_is_torchs(torch, ignored):
    rng = np.random.default_rng(0)
    logits, frame_logits = 3 * normal(2, 6, 8, 7), 3 * normal(2, 4, 6, 8, 7, seed=1)
    labels = rng.integers(0, 7, (2, 4, 24, 30))
    labels[rng.random(labels.shape) < ignored] = 255

    def cross_entropy(logits, labels):
        """As the release: enlarged, ignored pixels zero, the mean over all pixels."""
        full = torch.nn.functional.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=False)
        return torch.nn.functional.cross_entropy(full, labels, ignore_index=255, reduction="none").mean()

    theirs = torch.from_numpy(logits.transpose(0, 3, 1, 2).copy()).requires_grad_()
    theirs_frames = torch.from_numpy(frame_logits.transpose(0, 1, 4, 2, 3).copy()).requires_grad_()
    their_labels = torch.from_numpy(labels)
    expected = cross_entropy(theirs, their_labels[:, -1])
    expected = expected + 0.5 * cross_entropy(theirs_frames.flatten(0, 1), their_labels.flatten(0, 1))
    expected.backward()

    @jax.jit
    def ours(logits, frame_logits, labels):
        def loss(logits, frame_logits):
            return clip_loss(SimpleNamespace(logits=logits, frame_logits=frame_logits), labels)[0]

        return jax.value_and_grad(loss, (0, 1))(logits, frame_logits)

    value, (gradient, frame_gradient) = ours(logits, frame_logits, labels.astype(np.uint8))
    np.testing.assert_allclose(value, expected.item(), rtol=2e-6)
    np.testing.assert_allclose(gradient, theirs.grad.numpy().transpose(0, 2, 3, 1), rtol=0, atol=1e-7)
    np.testing.assert_allclose(frame_gradient, theirs_frames.grad.numpy().transpose(0, 1, 3, 4, 2), rtol=0, atol=1e-7)


@pytest.mark.parametrize(("weighted", "smoothing"), [(True, 0.0), (False, 0.1), (True, 0.2)])
def test_weights_and_smoothing_are_torchs(torch, weighted, smoothing):
    rng = np.random.default_rng(0)
    logits, labels = 3 * normal(2, 6, 8, 7), rng.integers(0, 7, (2, 6, 8))
    labels[rng.random(labels.shape) < 0.3] = 255
    weights = tuple(rng.random(7)) if weighted else ()
    theirs = torch.from_numpy(logits.transpose(0, 3, 1, 2).copy()).requires_grad_()
    expected = torch.nn.functional.cross_entropy(
        theirs, torch.from_numpy(labels), torch.tensor(weights, dtype=torch.float32) if weighted else None,
        ignore_index=255, reduction="none", label_smoothing=smoothing,
    ).mean()  # fmt: skip
    expected.backward()
    criterion = make_criterion(LossConfig(class_weights=weights, label_smoothing=smoothing))
    value, gradient = jax.jit(jax.value_and_grad(criterion))(logits, labels.astype(np.uint8))
    np.testing.assert_allclose(value, expected.item(), rtol=2e-6)
    np.testing.assert_allclose(gradient, theirs.grad.numpy().transpose(0, 2, 3, 1), rtol=0, atol=1e-7)


# --- optimiser -----------------------------------------------------------------------------------------------------


def test_the_optimiser_is_torchs_with_three_groups(torch):
    config, steps = OptimConfig(rate=1e-2, warmup_steps=3), 8
    params = {
        "encoder": {"stage1": {"norm": {"scale": normal(5)}, "embed": {"kernel": normal(3, 5, seed=1)}}},
        "local_0": {"norm1": {"scale": normal(4, seed=2)}, "proj": {"kernel": normal(4, 4, seed=3)}},
    }
    gradients = [jax.tree.map(lambda x, s=step: normal(*x.shape, seed=10 + s), params) for step in range(6)]

    theirs = jax.tree.map(lambda x: torch.nn.Parameter(torch.from_numpy(x.copy())), params)
    groups = [
        {"params": [theirs["encoder"]["stage1"]["norm"]["scale"]], "weight_decay": 0.0, "times": 1},
        {"params": [theirs["encoder"]["stage1"]["embed"]["kernel"]], "weight_decay": 0.01, "times": 1},
        {"params": [*jax.tree.leaves(theirs["local_0"])], "weight_decay": 0.01, "times": 10},
    ]
    reference = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.999), eps=1e-8)
    optimizer = make_optimizer(config, steps, create_model("cffm_b0", 2))
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for i, gradient in enumerate(gradients):
        rate = 1e-2 * (1 - i / steps)
        if i < 3:
            rate *= 1 - (1 - i / 3) * (1 - 1e-6)
        for group in reference.param_groups:
            group["lr"] = group["times"] * rate
        for parameter, g in zip(jax.tree.leaves(theirs), jax.tree.leaves(gradient), strict=True):
            parameter.grad = torch.from_numpy(g.copy())
        reference.step()
        updates, state = update(gradient, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        for ours, expected in zip(jax.tree.leaves(params), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(ours, expected.detach().numpy(), rtol=0, atol=5e-6)


def test_sgd_is_torchs_with_its_poly_rate(torch):
    config, steps = OptimConfig("sgd", 2e-2, power=0.9, warmup_steps=0, weight_decay=0.1, decay="but_biases"), 8
    params = {
        "encoder": {"stem": {"kernel": normal(3, 5), "bias": normal(5, seed=1)}, "norm": {"scale": normal(5, seed=2)}},
        "decoder": {"kernel": normal(4, 4, seed=3), "bias": normal(4, seed=4)},
    }
    theirs = jax.tree.map(lambda x: torch.nn.Parameter(torch.from_numpy(x.copy())), params)
    stem, norm, head = theirs["encoder"]["stem"], theirs["encoder"]["norm"], theirs["decoder"]
    groups = [
        {"params": [stem["kernel"], norm["scale"]], "lr": 2e-2, "weight_decay": 0.1},
        {"params": [stem["bias"]], "lr": 2e-2, "weight_decay": 0.0},
        {"params": [head["kernel"]], "lr": 2e-1, "weight_decay": 0.1},
        {"params": [head["bias"]], "lr": 2e-1, "weight_decay": 0.0},
    ]
    reference = torch.optim.SGD(groups, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LambdaLR(reference, lambda i: (1 - i / steps) ** 0.9)
    optimizer = make_optimizer(config, steps, create_model("cffm_b0", 2))
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for i in range(6):
        gradient = jax.tree.map(lambda x, s=10 + i: normal(*x.shape, seed=s), params)
        for parameter, g in zip(jax.tree.leaves(theirs), jax.tree.leaves(gradient), strict=True):
            parameter.grad = torch.from_numpy(g.copy())
        reference.step()
        schedule.step()
        updates, state = update(gradient, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        for ours, expected in zip(jax.tree.leaves(params), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(ours, expected.detach().numpy(), rtol=0, atol=2e-6)


# --- files ---------------------------------------------------------------------------------------------------------


def test_a_torch_file_of_the_release_goes_through_the_conversion(torch, tmp_path):
    theirs = golden_values.state_dict("cffm_b0_96x160")
    stored = {
        "meta": {"iter": 1},
        "state_dict": {key: torch.from_numpy(np.array(value)) for key, value in theirs.items()},
    }
    torch.save(stored, tmp_path / "cffm.pth")
    model = cffm_jax.create_model("cffm_b0", 124)
    back = cffm_jax.export_state_dict(cffm_jax.convert_state_dict(read_state_dict(tmp_path / "cffm.pth"), model), model)
    assert all(np.array_equal(value, theirs[key]) for key, value in back.items())
    # And torch reads what is exported.
    again = {key: torch.from_numpy(value) for key, value in back.items()}
    buffer = io.BytesIO()
    torch.save(again, buffer)
    assert zipfile.is_zipfile(buffer)
