"""ST-PPM: a method that is none of the papers' own family, through all that the interface promises."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cffm_jax.config import Config, DataConfig, EvalConfig, ModelConfig
from cffm_jax.inference import streaming
from cffm_jax.inference.engine import Engine
from cffm_jax.inference.load import load
from cffm_jax.models.create import build_model, create_model
from cffm_jax.models.macs import macs, training_flops
from cffm_jax.models.methods import stppm
from cffm_jax.models.normalise import normalise
from cffm_jax.models.resize import resize_bilinear
from cffm_jax.models.variables import flatten, variable_shapes
from cffm_jax.training.sharding import init_state, make_mesh
from cffm_jax.training.step import make_train_step
from cffm_jax.weights.convert import convert
from cffm_jax.weights.files.write import write_safetensors
from cffm_jax.weights.open import open_stored
from cffm_jax.weights.start import start_from

from helpers.drawn import lively
from helpers.products import traced_elements, traced_products

K, SIZE, LENGTH = 5, (64, 96), 7
CONFIG = Config(
    model=ModelConfig("stppm_b0", K),
    data=DataConfig(frame_size=SIZE, offsets=(5, 3, 1)),
    eval=EvalConfig(chunk=4),
)


@pytest.fixture(scope="module")
def network():
    model = build_model(dataclasses.replace(CONFIG.model, depths=(1, 1, 1, 1)))
    return model, lively(model)


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(1).integers(0, 256, (LENGTH, *SIZE, 3), np.uint8)


def naive_pyramid(x, side):
    """[h, w, C] -> [side, side, C], a bin at a time."""
    h, w, c = x.shape
    y = np.zeros((side, side, c))
    for i in range(side):
        for j in range(side):
            rows = slice(int(np.floor(i * h / side)), int(np.ceil((i + 1) * h / side)))
            columns = slice(int(np.floor(j * w / side)), int(np.ceil((j + 1) * w / side)))
            y[i, j] = x[rows, columns].mean((0, 1))
    return y


@pytest.mark.parametrize("size", [(8, 12), (7, 13), (60, 107)])
def test_the_pyramid_has_the_means_of_bins_that_may_overlap(size):
    x = np.random.default_rng(0).standard_normal((2, *size, 3)).astype(np.float32)
    for side, level in zip(stppm.SIDES, stppm.pyramid(jnp.asarray(x)), strict=True):
        np.testing.assert_allclose(level, [naive_pyramid(each, side) for each in x], atol=1e-5)


def masks_of(logits):
    return np.asarray(resize_bilinear(logits, SIZE).argmax(-1))


@pytest.fixture(scope="module")
def expected(network, frames):
    """Masks clip by clip; frames before the third are their own clip."""
    model, variables = network
    clips = []
    for t in range(LENGTH):
        far = [t - 5, t - 3, t - 1] if t >= 5 else [-(-t * (5 - offset) // 5) for offset in (5, 3, 1)]
        clips.append(frames[[*(far if t >= 3 else [t] * 3), t]])
    return masks_of(jax.jit(model.apply)(variables, normalise(np.stack(clips))))


def test_streams_and_chunks_give_the_masks_of_clips(network, frames, expected):
    model, variables = network
    assert len(np.unique(expected)) > 2
    stream = list(streaming.stream(model, variables, CONFIG, frames))
    assert (np.stack(stream) != expected).mean() < 1e-3
    engine = Engine(model, model.rows(), (5, 3, 1), frames=LENGTH, memory=5)
    step = jax.jit(engine.segment, static_argnames="size")
    masks = step(variables, engine.start(SIZE), frames[None], size=SIZE)[1].masks
    assert (masks["ST-PPM"][0] != expected).mean() < 1e-3
    assert list(masks) == ["ST-PPM", "per-frame (SegFormer)"]


def test_what_a_frame_is_remembered_by_is_small_and_kept_once(network):
    engine = Engine(network[0], network[0].rows(), (5, 3, 1), memory=5)
    ring = engine.start(SIZE).ring
    assert len(ring) == 1 and [level.shape for level in ring[0]] == [(6, 1, s, s, 256) for s in (1, 2, 3, 6)]


def test_the_order_of_references_does_not_matter(network, frames):
    model, variables = network
    run = jax.jit(model.apply)
    clips = normalise(frames[None, :4])
    np.testing.assert_allclose(run(variables, clips), run(variables, clips[:, [2, 0, 1, 3]]), atol=1e-4)
    assert np.abs(run(variables, clips) - run(variables, clips[:, [3, 3, 3, 3]])).max() > 1e-2


@pytest.mark.long
def test_a_training_step_moves_every_part(network):
    model, variables = network
    mesh, optimizer, rng = make_mesh(1), optax.sgd(0.1), np.random.default_rng(2)
    batch = {
        "frames": rng.integers(0, 256, (2, 4, 64, 64, 3), np.uint8),
        "labels": rng.integers(0, K, (2, 4, 64, 64), np.uint8),
        "size": np.full((2, 2), 64, np.int32),
    }
    step = make_train_step(model, optimizer, mesh, frame_loss_weight=0.5)
    state, metrics = step(init_state(model, variables, optimizer, mesh), batch, jax.random.key(0))
    assert np.isfinite(metrics["loss"]) and metrics["clip_loss"] > 0 and metrics["frame_loss"] > 0
    before, after = flatten(variables["params"]), flatten(jax.device_get(state.params))
    moved = {path.split("/")[0] for path in before if not np.array_equal(before[path], after[path])}
    assert moved == set(variables["params"])


def test_counts_are_the_traced_products():
    model = create_model("stppm_b0", K)
    variables, counts = variable_shapes(model), []
    for n in (1, 2):
        images = jax.ShapeDtypeStruct((n, *SIZE, 3), jnp.float32)

        def run(variables, images):
            bound = model.bind(variables)
            features = bound.encode(images)
            pooled = tuple(jnp.zeros((len(images), side, side, model.width)) for side in stppm.SIDES)
            return bound.classify_frames(features.fine), bound.classify(features.coarse, pooled)

        counts.append(traced_products(jax.make_jaxpr(run)(variables, images).jaxpr))
    expected = macs("stppm_b0", *SIZE, num_classes=K, convention="executed")
    resized = sum(8 * s * s + 8 * s * 12 for s in stppm.SIDES) * model.width  # Resizes are products as well.
    assert counts[1] - counts[0] - resized == pytest.approx(expected.total - expected["depthwise"], rel=2e-3)
    maps = jax.ShapeDtypeStruct((1, 8, 12, model.width), jnp.float32)
    levels = tuple(jax.ShapeDtypeStruct((1, side, side, model.width), jnp.float32) for side in stppm.SIDES)
    added = traced_elements(functools.partial(model.apply, method="classify"), variables, maps, levels)
    assert model.elements(*SIZE, prototypes=0) == model.frame_elements(*SIZE) + added


def test_training_counts_are_near_the_traced_gradient():
    """Which has resizes as products too, and merges no kernels."""
    model = create_model("stppm_b0", K, depths=(1, 1, 1, 1))
    variables = variable_shapes(model)
    batch = {
        "frames": jax.ShapeDtypeStruct((1, 4, *SIZE, 3), jnp.uint8),
        "labels": jax.ShapeDtypeStruct((1, 4, *SIZE), jnp.uint8),
        "size": jax.ShapeDtypeStruct((1, 2), jnp.int32),
    }

    def loss(params, statistics, batch):
        options = {"method": "loss", "rngs": {"dropout": jax.random.key(0)}, "mutable": ["batch_stats"]}
        return model.apply({"params": params, "batch_stats": statistics}, batch, 0.5, **options)[0][0]

    gradient = jax.make_jaxpr(jax.grad(loss))(variables["params"], variables["batch_stats"], batch)
    assert training_flops(model, *SIZE) == pytest.approx(2 * traced_products(gradient.jaxpr), rel=0.15)


def test_weights_of_a_segformer_start_it_and_its_file_brings_it_back(tmp_path, network):
    model = build_model(CONFIG.model)
    segformer = create_model("segformer_b0", K)
    rng = np.random.default_rng(3)
    theirs = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), variable_shapes(segformer))
    about = {"origin": "ours", "licence": "", "keys": {}}
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, name="segformer_b0"))
    told = {
        "format": "cffm_jax",
        "part": "all",
        "config": json.dumps(dataclasses.asdict(config)),
        "provenance": json.dumps(about),
    }
    write_safetensors(tmp_path / "segformer.safetensors", flatten(theirs), told)
    with open_stored(tmp_path / "segformer.safetensors") as stored:
        variables, report = start_from(stored, model, jax.random.key(0))
    assert report.loaded == ("encoder", "decoder", "frame classifier")
    assert set(report.fresh) == {"pyramid", "fusion", "clip classifier"}
    told["config"] = json.dumps(dataclasses.asdict(CONFIG))
    write_safetensors(tmp_path / "ours.safetensors", flatten(jax.device_get(variables)), told)
    convert(tmp_path / "ours.safetensors", tmp_path / "again.safetensors", "cffm_jax")
    loaded = load(tmp_path / "again.safetensors")
    assert loaded.model == model
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, jax.device_get(variables))
