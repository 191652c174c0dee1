"""Systems with key frames: what they share, their parts by definition, losses, counts, what they start from."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import cffm_jax
from cffm_jax.config import Config, InitConfig, PrototypeConfig
from cffm_jax.errors import InputError
from cffm_jax.models.methods.clockwork import Clockwork, Lower, Upper
from cffm_jax.models.methods.dvsn import DynamicNetwork
from cffm_jax.models.methods.flow_key_frames import Frame, Held
from cffm_jax.models.methods.grfp import Gate
from cffm_jax.models.methods.key_frames import KeyFrames
from cffm_jax.models.normalise import normalise
from cffm_jax.models.variables import trained_parts, variable_shapes
from cffm_jax.training.setup import initial_weights
from cffm_jax.weights.naming.match import export_state_dict

from helpers.drawn import lively
from helpers.key_frames import CASES, SIZE, SMALL, drawn_frames, small


@pytest.mark.long
@pytest.mark.parametrize("name", ["dff", "dvsn", "accel"])
def test_without_flow_frames_have_the_logits_of_the_key_frames_image_system(name):
    model, variables = small(name)
    params, image = variables["params"], cffm_jax.create_model("pspnet_mobilenetv2", 5)
    last = params["flow"]["update_block"]["flow_head_conv2"]
    params["flow"]["update_block"]["flow_head_conv2"] = jax.tree.map(np.zeros_like, last)
    own = {
        c: {part: tree[part] for part in ("encoder", "head", "classifier") if part in tree}
        for c, tree in variables.items()
    }
    frames = normalise(drawn_frames(2))
    expected = jax.jit(
        lambda v, x: image.apply(v, x, method=lambda m, x: m.classified(m.head(m.encode_stages(x), None)))
    )(own, frames[:1])
    if name == "accel":
        params["fusion"] = {"kernel": np.eye(10, 5, dtype=np.float32), "bias": np.zeros(5, np.float32)}
    else:
        conv = params["scale"]["conv"]
        params["scale"]["conv"] = {"kernel": np.zeros_like(conv["kernel"]), "bias": np.ones_like(conv["bias"])}
    logits = jax.jit(functools.partial(model.apply, method="clip_outputs"))(variables, frames[None]).logits
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_losses_train_what_they_should(name):
    model, variables = small(name)
    rng = np.random.default_rng(1)
    batch = {
        "frames": np.stack([drawn_frames(2, 2), drawn_frames(2, 3)]),
        "labels": rng.integers(0, 5, (2, 1, *SIZE), np.uint8),
        "size": np.array([SIZE] * 2, np.int32),
    }

    @jax.jit
    def step(trained, variables, batch):
        def loss(trained):
            full = {**variables, "params": {**variables["params"], **trained}}
            rngs = {"dropout": jax.random.key(0)}
            (total, parts), updates = model.apply(full, batch, 0.5, method="loss", mutable=["batch_stats"], rngs=rngs)
            return total, (parts, updates)

        return jax.value_and_grad(loss, has_aux=True)(trained)

    (total, (parts, updates)), gradients = step(trained_parts(model, variables["params"]), variables, batch)
    assert np.isfinite(total) and "flow" not in gradients
    np.testing.assert_allclose(total, sum(parts.values()) if parts else total, rtol=1e-6)
    for part, tree in gradients.items():
        assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(tree)), part
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)), part
    assert {*gradients} == ({*model.ADDED} or {*variables["params"]} - {"flow"})
    if model.ADDED:
        for part in ("encoder", "head"):
            stats = (each["batch_stats"][part] for each in (updates, variables))
            jax.tree.map(np.testing.assert_array_equal, *stats)


@pytest.mark.parametrize(
    ("name", "base"), [("accel", "pspnet"), ("grfp", "pspnet"), ("dvsn", "pspnet"), ("dff", ""), ("cc", "")]
)
def test_bases(name, base):
    model = cffm_jax.create_model(f"{name}_b0", 5, **SMALL)
    assert model.public_name == f"{name}_b0" and model.clip_frames == 2
    assert (model.base.public_name if model.base else "") == (base and f"{base}_b0")
    assert model.is_trained("encoder") == (not base) and not model.is_trained("flow") == (name != "cc")


@pytest.mark.long
def test_the_trained_image_system_is_where_they_start(tmp_path):
    """What they add is random, and flow, as asked for."""
    model, image = cffm_jax.create_model("grfp_mobilenetv2", 5, **SMALL), cffm_jax.create_model("pspnet_mobilenetv2", 5)
    variables = lively(image)
    safetensors.numpy.save_file(export_state_dict(variables, image), tmp_path / "pspnet.safetensors")
    init = InitConfig(model=str(tmp_path / "pspnet.safetensors"), flow="none")
    found, words, _ = initial_weights(model, Config(init=init), jax.random.key(0))
    for part in ("encoder", "head", "classifier"):
        jax.tree.map(np.testing.assert_array_equal, found["params"][part], variables["params"][part])
    assert "ignored: the auxiliary classifier, the auxiliary head" in words and "optical flow: random" in words
    np.testing.assert_array_equal(found["params"]["gate"]["strength"], 2)
    with pytest.raises(InputError, match="--init.model: is missing: .* trains its gate on top of a trained pspnet_mob"):
        initial_weights(model, Config(init=InitConfig(flow="none")), jax.random.key(0))
    with pytest.raises(InputError, match="--init.flow: is missing: grfp_mobilenetv2 reads the optical flow of raft_sm"):
        initial_weights(model, Config(init=InitConfig(model=init.model)), jax.random.key(0))


# --- what they share


class Counted(KeyFrames):
    """Counts the calls that are computed; the logits are those of the key frame plus the present frame."""

    calls = {"keyed": 0, "moved": 0}

    def count(self, name):
        def add():
            Counted.calls[name] += 1

        jax.debug.callback(add)

    def keyed(self, features, train=False):
        self.count("keyed")
        return (features,), features

    def moved(self, state, features, train=False):
        self.count("moved")
        return state, state[0] + features


def test_branches_are_computed_where_a_stream_needs_them():
    model = Counted("b0", 1, (1e-6, 1e-6), key_interval=3)
    state, found = (jnp.zeros((2, 1, 1, 1)),), []
    advance = jax.jit(lambda state, x, age: model.bind({}).advance(state, x, age, PrototypeConfig()))
    ages = np.array([[0, 0], [1, 1], [2, 0], [3, 1], [4, 2], [5, 3], [6, 6]], np.int32)
    for t, age in enumerate(ages):
        state, logits = advance(state, jnp.full((2, 1, 1, 1), 10.0**t), age)
        found.append(logits.reshape(2).tolist())
    jax.effects_barrier()
    assert found == [[1, 1], [11, 11], [101, 100], [1000, 1100], [11000, 10100], [101000, 100000], [1e6, 1e6]]
    assert Counted.calls == {"keyed": 5, "moved": 5}


def test_the_gate_is_its_formulas():
    """Against convolutions as sums over shifts, in float64, of a flow of whole pixels."""
    rng = np.random.default_rng(4)
    h, w, k, flow = 6, 7, 3, np.array([2.0, -1.0], np.float32)
    x, before = rng.standard_normal((2, 1, h, w, k)).astype(np.float32)
    frames, frames_before = rng.uniform(0, 255, (2, 1, h, w, 3)).astype(np.float32)
    flow = np.broadcast_to(flow, (1, h, w, 2))
    arguments = (x, before, frames, frames_before, flow)
    params = jax.jit(Gate().init)(jax.random.key(0), *arguments)["params"]
    np.testing.assert_array_equal(params["candidate_present"].sum((0, 1)), 6 * np.eye(k))
    params = {name: 2e-2 * rng.standard_normal(leaf.shape) + leaf for name, leaf in params.items()}

    def conv(name, x):
        padded = np.pad(x, ((0, 0), (3, 3), (3, 3), (0, 0)))
        return sum(padded[:, i : i + h, j : j + w] @ params[name][i, j] for i in range(7) for j in range(7))

    def moved(x):
        out = np.zeros_like(x)
        out[:, 1:, : w - 2] = x[:, : h - 1, 2:]
        return out

    def p(x):
        powers = np.exp(x.astype(np.float64))
        return powers / powers.sum(-1, keepdims=True) - 1 / k

    trust = 1 - np.tanh(np.abs(conv("trust", frames - moved(frames_before)) + params["trust_bias"]))
    held = trust * moved(p(before))
    c = conv("candidate_present", p(x)) + conv("candidate_before", held)
    z = 1 / (1 + np.exp(-(conv("gate_present", p(x)) + conv("gate_before", held) + params["gate_bias"])))
    expected = params["strength"] * (1 - z) * held + z * c
    found = jax.jit(Gate().apply)({"params": params}, *arguments)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_an_update_where_the_lower_scores_classes_change():
    model = cffm_jax.create_model("cc_r18", 3, update_share=0.25)
    assert isinstance(model, Clockwork) and "model.key_interval" not in model.settings_read
    score = np.zeros((2, 2, 4, 3), np.float32)
    score[0, 0, :2, 1] = score[1, 0, :1, 2] = 1  # A quarter of the pixels, and an eighth.
    score = jnp.asarray(score)
    state, features = Upper(score, jnp.zeros((2, 2, 4), jnp.int32)), Lower(score, score)
    np.testing.assert_array_equal(model.is_key(state, features, jnp.array([1, 1])), [True, False])
    np.testing.assert_array_equal(model.is_key(state, features, jnp.array([0, 0])), [True, True])
    fixed = cffm_jax.create_model("cc_r18", 3, update_share=0.0)
    assert "model.key_interval" in fixed.settings_read and fixed.settings_resolved["key_interval"] == 2
    np.testing.assert_array_equal(fixed.is_key(state, features, jnp.array([1, 2])), [False, True])


@pytest.mark.parametrize(("least", "new"), [(0.0, False), (90.0, True)])
def test_a_new_key_frame_where_the_predicted_agreement_is_low(least, new, monkeypatch):
    model = cffm_jax.create_model("dvsn_r18", 3, least_agreement=least)
    state, (two, flow) = Held(jnp.zeros((2, 1, 1, 3)), jnp.zeros((2, 1, 1, 1))), jnp.full((2, 2, 1, 1, 3), 2.0)
    found = {"predicted": (two / 2, jnp.array([50.0, 50.0])), "keyed": (Held(two, state.flow), two)}
    monkeypatch.setattr(DynamicNetwork, "unbound", lambda self: lambda method, *arguments: found[method])
    held, logits = model.advance(state, Frame(two, flow, flow), jnp.array([0, 1]), PrototypeConfig())
    np.testing.assert_array_equal(logits[:, 0, 0, 0], [2, 2 if new else 1])
    np.testing.assert_array_equal(held.kept[:, 0, 0, 0], [2, 2 if new else 0])


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_counts(name):
    """Those of every frame, of key frames and of those between make up what a stream computes."""
    model, _ = small(name)
    macs = model.macs(*SIZE, prototypes=0, executed=True)
    image = cffm_jax.create_model("fcn_mobilenetv2" if name == "cc" else "pspnet_mobilenetv2", 5)
    whole = sum(image.macs(*SIZE, prototypes=0, executed=True).values())
    n = 1 if model.chooses_key_frames else model.key_interval
    every, key = macs["every_frame"], n * macs["key_frames"]
    if name == "grfp":
        assert key == 0 and every > whole
    elif name == "cc":
        auxiliary = 5 * 6 * (96 * 256 * 9 + 256 * 5)
        assert every + key == whole + auxiliary
    else:
        assert key == pytest.approx(whole, abs=n)
    assert model.training_macs(*SIZE, prototypes=0) > whole
    assert model.elements(*SIZE, prototypes=0) > 0


@pytest.mark.long
def test_the_update_network_is_small():
    """Of Accel the reference is PSPNet, beside it PSPNet on ResNet-18."""
    params = variable_shapes(cffm_jax.create_model("accel_mobilenetv2", 19, **SMALL))["params"]
    own = {part: sum(leaf.size for leaf in jax.tree.leaves(tree)) for part, tree in params.items()}
    image = variable_shapes(cffm_jax.create_model("pspnet_r18", 19))["params"]
    expected = sum(leaf.size for part in ("encoder", "head", "classifier") for leaf in jax.tree.leaves(image[part]))
    assert own["update_encoder"] + own["update_head"] + own["update_classifier"] == expected
    assert own["fusion"] == 2 * 19 * 19 + 19
