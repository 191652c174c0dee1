"""TCB: the VSPW baselines' outputs, a stream against the clip, its loss."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cffm_jax
from cffm_jax.config import Config, DataConfig
from cffm_jax.data.clips import reference_indices
from cffm_jax.inference.streaming import StreamSegmenter
from cffm_jax.models.losses import cross_entropy
from cffm_jax.models.normalise import normalise
from cffm_jax.models.resize import resize_bilinear
from cffm_jax.models.variables import variable_shapes

from helpers import golden_values
from helpers.drawn import lively
from helpers.golden_values import assert_compared, drawn_maps

SIZE = (33, 45)


@pytest.mark.parametrize(("case", "name"), [("tcb_stppm_12x16", "tcb_ppm"), ("tcb_stocr_12x16", "tcb_ocr")])
def test_heads_of_the_release(case, name):
    entry = golden_values.manifest()[case]
    model = cffm_jax.create_model(f"{name}_r101", 124)
    variables = cffm_jax.convert_state_dict(golden_values.state_dict(case), model, part="head")

    @jax.jit
    def outputs(variables, maps):
        return model.apply(variables, maps, method=lambda model, maps: model.blended(model.described(maps), 4))

    logits, auxiliary = outputs(variables, drawn_maps(entry))
    assert_compared(case, {"logits": logits, "aux_logits": auxiliary[-1:]})


@pytest.mark.parametrize(("name", "image"), [("tcb_ppm_r101", "pspnet_r101"), ("tcb_ocr_r101", "ocrnet_r101")])
def test_the_parameters_are_those_of_the_image_system(name, image):
    counts = [
        sum(leaf.size for leaf in jax.tree.leaves(variable_shapes(cffm_jax.create_model(each, 124, form="vspw"))))
        for each in (name, image)
    ]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("name", ["tcb_ppm", pytest.param("tcb_ocr", marks=pytest.mark.long)])
def test_a_stream_equals_the_clip(name):
    model = cffm_jax.create_model(f"{name}_mobilenetv2", 5, receptive=(7,), pooling=(7,))
    assert model.reference_names == ("reference0",) and model.clip_frames == 2
    variables = lively(model)
    config = Config(data=DataConfig(frame_size=(0, 0), offsets=(2,)))
    segmenter = StreamSegmenter(model, config, SIZE, logits=True)
    frames = np.random.default_rng(0).integers(0, 256, (4, 1, *SIZE, 3), np.uint8)
    apply = jax.jit(functools.partial(model.apply, method="clip_outputs"))
    state = segmenter.start()
    for t, frame in enumerate(frames):
        state, segmented = segmenter.segment(variables, state, frame)
        reference = {0: 0, 1: 0}.get(t, t - 2)  # The second frame's is the first: released rule.
        clip = normalise(np.stack([frames[reference], frame], 1).reshape(2, *SIZE, 3))[None]
        expected = apply(variables, clip).logits
        np.testing.assert_allclose(segmented.logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
        full = np.asarray(resize_bilinear(expected, SIZE))
        mask = next(iter(segmented.masks.values()))
        best = np.take_along_axis(full, np.asarray(mask)[..., None].astype(int), -1)[..., 0]
        np.testing.assert_allclose(best, full.max(-1), atol=2e-3)


@pytest.mark.parametrize("labelled", [pytest.param(1, marks=pytest.mark.long), 2])
def test_the_loss_is_that_of_the_target_and_the_auxiliary_one_of_all_labelled_frames(labelled):
    model = cffm_jax.create_model("tcb_ocr_mobilenetv2", 5, receptive=(7,), pooling=(7,))
    rng = np.random.default_rng(1)
    batch = {
        "frames": rng.integers(0, 256, (1, 2, *SIZE, 3), np.uint8),
        "labels": rng.integers(0, 5, (1, labelled, *SIZE), np.uint8),
        "size": np.array([SIZE], np.int32),
    }
    variables, rngs = lively(model), {"dropout": jax.random.key(0)}
    common = {"mutable": ["batch_stats"], "rngs": rngs}
    apply = functools.partial(model.apply, frame_loss_weight=0.5, method="loss", **common)
    (loss, parts), _ = jax.jit(apply)(variables, batch)
    np.testing.assert_allclose(loss, parts["head_loss"] + 0.4 * parts["auxiliary_loss"], rtol=1e-6)
    outputs, _ = jax.jit(functools.partial(model.apply, train=True, method="clip_outputs", **common))(
        variables, normalise(jnp.asarray(batch["frames"]))
    )
    beside = [cross_entropy(outputs.frame_logits[:, -1 - i], batch["labels"][:, -1 - i]) for i in range(labelled)]
    np.testing.assert_allclose(parts["head_loss"], cross_entropy(outputs.logits, batch["labels"][:, -1]), rtol=1e-4)
    np.testing.assert_allclose(parts["auxiliary_loss"], np.mean(beside), rtol=1e-4)


@pytest.mark.parametrize("memory", ["newest", pytest.param("first", marks=pytest.mark.long)])
def test_the_memory_is_a_list_of_the_contexts_of_earlier_frames(memory):
    """As the definition, appending one after another; the references are those of ST-OCR's stream. The release's
    list is that of the first frame."""
    model = cffm_jax.create_model("tcb_ocr_mem_mobilenetv2", 5, receptive=(7, 7), pooling=(7, 7), memory=memory)
    variables = lively(model)
    config = Config(data=DataConfig(frame_size=(0, 0), offsets=(2, 1)))
    segmenter = StreamSegmenter(model, config, SIZE, logits=True)
    frames = np.random.default_rng(0).integers(0, 256, (6, *SIZE, 3), np.uint8)

    @jax.jit
    def kept(variables, frames):
        described = model.apply(variables, normalise(frames), method="encode")
        return described, model.apply(variables, described, method="remember")[0]

    described, contexts = kept(variables, frames)

    @jax.jit
    def classify(variables, described, mean):
        arguments = (described, (), np.array([True]), {"causal": mean})
        return model.apply(variables, *arguments, method="segment")["TCB ST-OCR-Mem"]

    held, state = [], segmenter.start()
    for t in range(len(frames)):
        if memory == "first":
            held = held[:3]
        for reference in (*(reference_indices(t, (2, 1)) or (t, t)), t):
            while len(held) > 8:
                held.pop(0)
            held.append(contexts[reference])
        state, segmented = segmenter.segment(variables, state, frames[t : t + 1])
        expected = classify(variables, jax.tree.map(lambda x, t=t: x[t : t + 1], described), np.mean(held, 0)[None])
        np.testing.assert_allclose(segmented.logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert len(held) == {"newest": 9, "first": 6}[memory]


def test_training_moves_the_statistics_once():
    """Those of the features: contexts and targets read the same ones."""
    model = cffm_jax.create_model("tcb_ocr_mobilenetv2", 5, receptive=(7,), pooling=(7,))
    variables = lively(model)
    maps = [np.random.default_rng(2).standard_normal((4, 6, 7, c)).astype(np.float32) for c in (24, 32, 96, 320)]

    def updates(call):
        apply = functools.partial(model.apply, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)})
        return jax.jit(lambda v: apply(v, method=call)[1]["batch_stats"]["head"]["pixels"])(variables)

    once = updates(lambda model: model.head.features(maps, True))
    trained = updates(lambda model: model.blended(model.described(maps, True), 2, True))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), trained, once)
