"""Every variant of the papers' tables: its config builds a model of the right shapes, and each kind takes a training
step; and what they must obey."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cffm_jax
from cffm_jax.config import Config, DataConfig, ModelConfig
from cffm_jax.models.contexts import cffa
from cffm_jax.models.create import build_model
from cffm_jax.models.encoders import mit
from cffm_jax.models.encoders import names as encoders
from cffm_jax.models.methods.cffm_families import FAMILIES
from cffm_jax.models.variables import _traced_shapes, variable_shapes
from cffm_jax.rules import with_changes
from cffm_jax.tables.networks import Network
from cffm_jax.tables.rows import TABLES
from cffm_jax.training.sharding import batch_sharded, init_state, make_mesh, state_shapes
from cffm_jax.training.step import make_train_step

K, SIDE = 5, 64
BASE = Config(model=ModelConfig(num_classes=K), data=DataConfig(crop=(SIDE, SIDE)))


def config_of(network: Network) -> Config:
    config = with_changes(BASE, network.changes)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, name=network.model))


def variants() -> dict[str, Config]:
    """The papers' own networks of the tables with MiT-B0, each model once."""
    rows = [row.network for table in TABLES for row in table.rows if row.network and row.network.family in FAMILIES]
    found = {}
    for network in [needed.on("b0") for row in rows for needed in row.needs()]:
        config = config_of(network)
        found.setdefault((config.model, config.data.offsets), (f"{network.family} {network.variant}".strip(), config))
    return dict(found.values())


VARIANTS = variants()


def operations(config: Config) -> tuple[object, ...]:
    """Variants are one program but for sizes where they differ in windows, poolings and further blocks alone."""
    model = dataclasses.replace(config.model, receptive=(), pooling=(), blocks=min(config.model.blocks or 1, 2))
    return model, len(config.data.offsets)


STEPPED = {operations(config): name for name, config in reversed(VARIANTS.items())}.values()
OTHERS = {
    f"{name} {projection}": dataclasses.replace(
        BASE, model=ModelConfig(name=name, num_classes=K, projection=projection)
    )
    for name, projection in (("cffm_pvtv2_b0", "linear"), ("cffm_convnext_tiny", "normalised"))
}
"""Encoders and a decoder that the papers do not have."""
WITH_ENCODER = {"segformer", "cffm", "cffmp", "cffmpp", *OTHERS}


def small(config: Config, **changes):
    """The config's model with one block in each stage of the encoder, which are alike: it is compiled sooner."""
    return build_model(dataclasses.replace(config.model, depths=(1, 1, 1, 1), **changes))


def weights(model, seed: int = 0) -> dict:
    """Random variables without compiling what draws them: statistics and scales about 1, the rest small."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        return (0.05 * rng.standard_normal(leaf.shape) + (name in ("scale", "var"))).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, variable_shapes(model))


def batch_of(config: Config, rng: np.random.Generator) -> dict[str, np.ndarray]:
    frames = 1 if config.model.name.startswith("cffmp") else len(config.data.offsets) + 1
    batch = {
        "frames": rng.integers(0, 256, (1, frames, SIDE, SIDE, 3), np.uint8),
        "labels": rng.integers(0, K, (1, frames, SIDE, SIDE), np.uint8),
        "size": np.array([[SIDE, SIDE]], np.int32),
    }
    if config.model.name.startswith("cffmp"):
        batch["prototypes"] = rng.standard_normal((1, config.prototypes.count, 256)).astype(np.float32)
    return batch


class Patches(nn.Module):
    """In the place of an encoder: the means of patches, projected to the channels of B0's stages."""

    @nn.compact
    def __call__(self, frames, train=False):
        n, h, w, c = frames.shape
        means = [frames.reshape(n, h // s, s, w // s, s, c).mean((2, 4)) for s in (4, 8, 16, 32)]
        return tuple(nn.Dense(channels)(x) for channels, x in zip(mit.SIZES["b0"].channels, means, strict=True))


@pytest.fixture
def encoder(request, monkeypatch):
    """Ablations have patches: all have the same encoder, which takes longest to trace and to compile."""
    patched = request.getfixturevalue("name") not in WITH_ENCODER
    if patched:
        monkeypatch.setattr(encoders, "make_encoder", lambda *_, **__: Patches())
        _traced_shapes.cache_clear()  # The model is another now, and is none the less the same.
    yield
    if patched:
        _traced_shapes.cache_clear()


@pytest.mark.parametrize("name", [*STEPPED, *OTHERS])
@pytest.mark.long
def test_one_training_step(name, encoder):
    config = (VARIANTS | OTHERS)[name]
    model, mesh = small(config), make_mesh(1)
    variables = weights(model)
    optimizer = optax.sgd(0.1)
    state = init_state(model, variables, optimizer, mesh)
    batch = batch_of(config, np.random.default_rng(1))
    step = make_train_step(model, optimizer, mesh, frame_loss_weight=0.5)
    # Compiling takes longer than running: what it does not optimise it need not run fast.
    compiled = step.lower(state, batch, jax.random.key(0)).compile({"xla_backend_optimization_level": 0})
    state, metrics = compiled(state, batch, jax.random.key(0))
    assert np.isfinite(metrics["loss"]) and np.isfinite(metrics["gradient_norm"])
    moved = {
        jax.tree_util.keystr(path)
        for (path, before), after in zip(
            jax.tree_util.tree_leaves_with_path(variables["params"]), jax.tree.leaves(state.params), strict=True
        )
        if not np.array_equal(before, after)
    }
    # Neither a softmax nor the norm of a batch sees a constant; rounding may move these or not.
    unseen = [leaf for leaf in moved_or_not(variables["params"]) if leaf not in moved]
    if model.global_blocks:
        assert all("global" in leaf for leaf in moved)
        unseen = [leaf for leaf in unseen if "global" in leaf]
    assert all("project" in leaf or "norm4" in leaf or "bias" in leaf for leaf in unseen), unseen


def moved_or_not(params: dict) -> list[str]:
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]


@pytest.mark.long
def test_the_second_stage_on_eight_devices_is_that_on_one():
    """On 4 x 2 devices with the state split over 2 of them, and 8 clips on 4 devices in two parts: no BatchNorm is
    trained here, so that parts change nothing."""
    model = small(VARIANTS["cffmpp"], dropout=0.0)
    variables, rng = weights(model), np.random.default_rng(6)
    clips = [batch_of(VARIANTS["cffmpp"], rng) for _ in range(8)]
    batch = {name: np.concatenate([clip[name] for clip in clips]) for name in clips[0]}
    results = []
    for devices, fsdp, parts in ((1, 1, 1), (8, 2, 1), (4, 1, 2)):
        mesh, optimizer = make_mesh(devices, fsdp), optax.sgd(0.1)
        state = init_state(model, variables, optimizer, mesh)
        jax.tree.map(assert_described, state, state_shapes(model, optimizer, mesh))
        step = make_train_step(model, optimizer, mesh, frame_loss_weight=0.5, accumulate=parts)
        sent = jax.device_put(batch, batch_sharded(mesh))
        compiled = step.lower(state, sent, jax.random.key(0)).compile({"xla_backend_optimization_level": 0})
        results.append(jax.device_get(compiled(state, sent, jax.random.key(0))))
    (one, of_one), *others = results
    for other, of_other in others:
        assert of_other["loss"] == pytest.approx(of_one["loss"], abs=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), one.params, other.params)


def assert_described(array: jax.Array, shape: jax.ShapeDtypeStruct) -> None:
    assert (array.shape, array.dtype) == (shape.shape, shape.dtype)
    assert array.sharding.is_equivalent_to(shape.sharding, array.ndim)


@pytest.mark.long
@pytest.mark.parametrize("name", VARIANTS)
def test_shapes_at_full_size(name, encoder):
    config = VARIANTS[name]
    model = small(config)
    clips = jax.ShapeDtypeStruct((2, len(config.data.offsets) + 1, 480, 864, 3), jnp.float32)
    prototypes = jax.ShapeDtypeStruct((2, config.prototypes.count, 256), jnp.float32) if model.global_blocks else None
    outputs = jax.eval_shape(
        lambda v, c, p: model.apply(v, c, method="clip_outputs", prototypes=p),
        variable_shapes(model),
        clips,
        prototypes,
    )
    assert outputs.logits.shape == (2, 120, 216, K) and outputs.mined.shape == (2, 60, 108, 256)


def test_there_is_a_variant_for_every_ablation():
    families = {name.split()[0] for name in VARIANTS}
    assert families == {"segformer", "cffm", "cffmp", "cffmpp"}
    models = [config.model for config in VARIANTS.values()]
    assert {model.blocks for model in models} == {0, 1, 2, 3, 4}
    assert {len(config.data.offsets) for config in VARIANTS.values()} == {1, 3, 5}
    assert {model.references for model in models if model.name == "cffmpp_b0"} == {"past", "self"}
    assert {model.mining for model in models} == {"attention", "positions"}


# --- the context table


def test_the_papers_main_setting_is_the_releases():
    far, middle, near = cffa.reference_sources()
    assert (far.cells, far.pool, far.reach) == (1, 7, 7)
    assert (middle.cells, middle.pool, middle.reach) == (2, 3, 5)
    assert (near.cells, near.pool, near.reach) == (3, 2, 3)


@pytest.mark.parametrize(
    ("receptive", "pooling", "reach"),
    [
        ((7, 5, 3), (7, 5, 3), (1, 1, 1)),
        ((49, 35, 21), (7, 5, 3), (7, 7, 7)),
        ((49, 25, 15), (7, 5, 3), (7, 5, 5)),
        ((49, 20, 6), (7, 7, 7), (7, 3, 1)),  # 2.86 and 0.86
        ((49, 20, 6), (7, 5, 3), (7, 5, 3)),  # 4 and 2 are as far from two odd numbers: up
        ((49, 20, 6), (5, 3, 3), (9, 7, 3)),
        ((6,), (2,), (3,)),
    ],
)
def test_cells_that_a_window_reads(receptive, pooling, reach):
    assert tuple(source.reach for source in cffa.reference_sources(receptive, pooling)) == reach


def test_names_end_with_the_nearest():
    names = [[s.name for s in cffa.reference_sources((49,) * n, (7,) * n)] for n in (1, 2, 3, 5)]
    assert names == [
        ["near"],
        ["middle", "near"],
        ["far", "middle", "near"],
        ["far_2", "far_1", "far", "middle", "near"],
    ]


@pytest.mark.parametrize(
    ("receptive", "pooling"), [((), ()), ((49, 20), (7, 4, 2)), ((49, 20, 6), (7, 6, 2)), ((0, 20, 6), (7, 4, 2))]
)
def test_context_tables_that_are_none(receptive, pooling):
    with pytest.raises(ValueError, match="^receptive, pooling: r "):
        cffm_jax.create_model("cffm_b0", K, receptive=receptive, pooling=pooling)


# --- static contexts, CFFA alone, global contexts


@pytest.fixture(scope="module")
def clips() -> np.ndarray:
    return np.random.default_rng(2).standard_normal((1, 4, 32, 64, 3)).astype(np.float32)


def run(model, variables, clips, prototypes=None) -> np.ndarray:
    apply = jax.jit(model.apply, compiler_options={"xla_backend_optimization_level": 0})
    return np.asarray(apply(variables, clips, prototypes=prototypes))


@pytest.mark.long
def test_static_contexts_are_the_target_repeated(clips):
    past = cffm_jax.create_model("cffm_b0", K)
    static, variables = cffm_jax.create_model("cffm_b0", K, references="self"), weights(past)
    found = run(static, variables, clips)
    np.testing.assert_allclose(found, run(past, variables, clips[:, [3, 3, 3, 3]]), rtol=0, atol=1e-5)
    assert np.abs(found - run(past, variables, clips)).max() > 1e-3


def test_without_attention_a_token_weighs_what_its_position_does(clips):
    """The mined target is linear in its references then, but for their norms, which leave these rows as they are."""
    model = cffm_jax.create_model("cffm_b0", K, mining="positions")
    shapes = variable_shapes(model)["params"]["local_0"]
    assert "qkv" not in shapes and shapes["value"]["kernel"].shape == (256, 256)
    variables = weights(model)
    variables["params"]["local_0"]["mlp"] = jax.tree.map(np.zeros_like, variables["params"]["local_0"]["mlp"])
    rng = np.random.default_rng(3)
    target = np.repeat(rng.standard_normal((1, 7, 14, 256)).astype(np.float32), 3, 0)
    a, b = rng.standard_normal((2, 3, 7, 14, 256)).astype(np.float32)
    a, b = (x - x.mean(-1, keepdims=True) for x in (a, b))
    a, b = (x / np.sqrt((x**2).mean(-1, keepdims=True)) for x in (a, b))
    b = b - (a * b).mean(-1, keepdims=True) * a
    b = b / np.sqrt((b**2).mean(-1, keepdims=True))
    both = (a + b) / np.sqrt(2)
    mine = jax.jit(lambda references: model.apply(variables, target, references, method="mine_local"))
    of_a, of_b, of_both = mine(np.stack([a, b, both]))
    # They enter as A x + c; c is half of what x and -x give together.
    c = sum(mine(np.stack([a, -a, a]))[:2]) / 2
    np.testing.assert_allclose((of_both - c) * np.sqrt(2), (of_a - c) + (of_b - c), rtol=0, atol=2e-4)
    assert np.abs(of_a - c).max() > 1e-3


@pytest.fixture(scope="module")
def pp():
    model = cffm_jax.create_model("cffmpp_b0", K)
    return model, weights(model)


@pytest.mark.long
def test_local_and_half_of_the_global_logits(pp, clips):
    model, variables = pp
    p = np.random.default_rng(4).standard_normal((1, 7, 256)).astype(np.float32)
    outputs = jax.jit(lambda v, c, p: model.apply(v, c, method="clip_outputs", prototypes=p))(variables, clips, p)
    local = run(model.clone(global_blocks=0), variables, clips)
    np.testing.assert_allclose(outputs.logits, local + 0.5 * outputs.global_logits, rtol=0, atol=1e-5)
    plain = model.clone(dropout=0.0)
    trained = jax.jit(lambda v, x, p: plain.apply(v, x, p, method="train_global"))(variables, clips[:, -1], p)
    np.testing.assert_allclose(trained, outputs.global_logits, rtol=0, atol=1e-5)


def test_prototypes_are_a_set(pp):
    """Their order does not matter, a prototype twice weighs twice, and equal ones all at once are one."""
    model, variables = pp
    rng = np.random.default_rng(5)
    target = rng.standard_normal((1, 4, 6, 256)).astype(np.float32)
    p = rng.standard_normal((1, 6, 256)).astype(np.float32)
    mine = jax.jit(lambda p: model.apply(variables, target, p, method="mine_global"))
    found = mine(p)
    np.testing.assert_allclose(mine(p[:, ::-1]), found, rtol=0, atol=1e-5)
    np.testing.assert_allclose(mine(np.tile(p, (1, 3, 1))), found, rtol=0, atol=1e-5)
    assert np.abs(mine(np.concatenate([p, p[:, :1]], 1)) - found).max() > 1e-5
    np.testing.assert_allclose(mine(p[:, :1]), mine(np.repeat(p[:, :1], 6, 1)), rtol=0, atol=1e-5)


def test_global_contexts_need_prototypes(pp, clips):
    model, variables = pp
    with pytest.raises(ValueError, match="needs prototypes"):
        model.apply(variables, clips)
