"""The image systems that the papers compare with: outputs of MMSegmentation and of the VSPW baselines' heads."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import cffm_jax
from cffm_jax.config import Config, DataConfig, PrototypeConfig
from cffm_jax.errors import InputError
from cffm_jax.inference.streaming import StreamSegmenter
from cffm_jax.inference.video_prototypes import prototype_source
from cffm_jax.models.losses import cross_entropy
from cffm_jax.models.methods.image_head import HEADS
from cffm_jax.models.methods.tcb import KINDS
from cffm_jax.models.normalise import normalise
from cffm_jax.models.resize import resize_bilinear
from cffm_jax.models.variables import variable_shapes
from cffm_jax.weights.naming.match import describe
from cffm_jax.weights.naming.recognise import recognise

from helpers import golden_values
from helpers.drawn import lively
from helpers.golden_values import assert_compared, drawn_maps

NETWORKS = [
    "fcn_mobilenetv2_65x97", "pspnet_mobilenetv2_65x97", "pspnet_r18_65x97",
    *(pytest.param(f"{head}_r101_96x128", marks=pytest.mark.long) for head in HEADS),
]  # fmt: skip
VSPW = {"vspw_ppm": "pspnet", "vspw_ocr": "ocrnet", "vspw_deeplab": "deeplabv3plus", "vspw_upernet": "upernet"}


@pytest.mark.parametrize("case", NETWORKS)
def test_networks_of_mmsegmentation(case):
    entry = golden_values.manifest()[case]
    model = cffm_jax.create_model(entry["variant"], entry["classes"])
    variables = cffm_jax.convert_state_dict(golden_values.state_dict(case), model)
    frames = golden_values.draw_input("frames", entry["frames"], entry["seed"]).transpose(0, 2, 3, 1)

    @jax.jit
    def outputs(variables, frames):
        maps = model.apply(variables, frames, method="encode_stages")
        logits, auxiliary = model.apply(variables, maps, method="head_logits")
        return {f"c{i}": x for i, x in enumerate(maps, 1)} | {"logits": logits, "aux_logits": auxiliary}

    found = outputs(variables, frames)
    stored = golden_values.arrays(case)
    assert_compared(case, {name: x for name, x in found.items() if {name, f"{name}_mean"} & set(stored)})
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == entry["parameters"]


@pytest.mark.parametrize(("case", "head"), [*VSPW.items(), ("ocrnet_head", "ocrnet")])
def test_heads_of_the_vspw_baselines(case, head):
    case = f"{case}_12x16"
    entry = golden_values.manifest()[case]
    model = cffm_jax.create_model(f"{head}_r101", 124, form="vspw" if case.startswith("vspw") else "mmsegmentation")
    variables = cffm_jax.convert_state_dict(golden_values.state_dict(case), model, part="head")
    apply = jax.jit(functools.partial(model.apply, method="head_logits"))
    logits, auxiliary = apply(variables, drawn_maps(entry))
    assert_compared(case, {"logits": logits} | ({} if auxiliary is None else {"aux_logits": auxiliary}))


COUNTS = {
    ("deeplabv3plus_r101", "vspw"): 59.49, ("deeplabv3plus_r101", "mmsegmentation"): 62.66,
    ("upernet_r101", "vspw"): 83.20, ("upernet_r101", "mmsegmentation"): 85.49,
    ("pspnet_r101", "vspw"): 70.54, ("pspnet_r101", "mmsegmentation"): 68.05,
    ("ocrnet_r101", "vspw"): 58.10, ("ocrnet_r101", "mmsegmentation"): 55.60,
}  # fmt: skip
"""Millions of parameters with 124 classes."""


@pytest.mark.parametrize(("name", "form"), COUNTS)
def test_parameter_counts(name, form):
    leaves = jax.tree.leaves(variable_shapes(cffm_jax.create_model(name, 124, form=form))["params"])
    assert round(sum(leaf.size for leaf in leaves) / 1e6, 2) == COUNTS[name, form]


@pytest.mark.parametrize(("name", "count"), [("fcn_mobilenetv2", 9.82), ("pspnet_mobilenetv2", 13.72)])
def test_parameter_counts_with_150_classes(name, count):
    leaves = jax.tree.leaves(variable_shapes(cffm_jax.create_model(name, 150))["params"])
    assert round(sum(leaf.size for leaf in leaves) / 1e6, 2) == count


@pytest.mark.parametrize(
    ("name", "stride"), [("pspnet_b0", 32), ("upernet_pvtv2_b0", 4), ("deeplabv3plus_r18_plain", 4), ("fcn_r50", 8)]
)
def test_every_head_takes_every_backbone(name, stride):
    model = cffm_jax.create_model(name, 7)
    assert model.stride == stride and model.public_name == name
    frames = jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32)
    logits = jax.eval_shape(
        functools.partial(model.templated.init_with_output, method="frame_logits"), jax.random.key(0), frames
    )[0]
    assert logits.shape == (2, 64 // stride, 96 // stride, 7)


@pytest.mark.parametrize(
    ("family", "form"),
    [(family, form) for kinds in (HEADS, KINDS) for family, kind in kinds.items() for form in kind.forms],
)
def test_weights_go_out_and_are_recognised(family, form):
    model = cffm_jax.create_model(f"{family}_r18", 7, form=form)
    variables = lively(model)
    stored = cffm_jax.export_state_dict(variables, model, dead=True)
    for under in ("", "module."):
        found = recognise(describe({f"{under}{key}": array for key, array in stored.items()}), "file")
        settings = found.settings("file")
        assert settings.pop("num_classes") == 7 and model == cffm_jax.create_model(num_classes=7, **settings)
        assert settings.get("form", "mmsegmentation") == form
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, cffm_jax.convert_state_dict(stored, model), variables)))


def test_a_form_that_a_head_lacks_is_refused():
    with pytest.raises(ValueError, match="form: vspw: fcn has no such form; give form mmsegmentation"):
        cffm_jax.create_model("fcn_r18", 7, form="vspw")


def test_its_features_are_no_prototypes(tmp_path):
    path, model = tmp_path / "fcn.safetensors", cffm_jax.create_model("fcn_mobilenetv2", 5)
    safetensors.numpy.save_file(cffm_jax.export_state_dict(lively(model), model), path)
    config = Config(prototypes=PrototypeConfig(checkpoint=str(path)))
    other = cffm_jax.create_model("cffmpp_b0", 5)
    with pytest.raises(InputError, match="--prototypes.checkpoint: .* holds fcn_mobilenetv2, which has no features"):
        prototype_source(config, other, {}, "val", tmp_path)


@pytest.mark.long
def test_a_stream_of_frames_of_odd_sides_is_segmented_frame_by_frame():
    model = cffm_jax.create_model("pspnet_mobilenetv2", 5)
    variables = lively(model)
    config = Config(data=DataConfig(frame_size=(0, 0)))
    segmenter = StreamSegmenter(model, config, (45, 61))
    frames = np.random.default_rng(0).integers(0, 256, (2, 1, 45, 61, 3), np.uint8)
    state = segmenter.start()
    for frame in frames:
        state, mask = segmenter.step(variables, state, frame)
        logits = model.apply(variables, normalise(frame), method="frame_logits")
        assert logits.shape == (1, 6, 8, 5)
        full = np.asarray(resize_bilinear(logits, (45, 61)))
        assert len(np.unique(full.argmax(-1))) > 1
        best = np.take_along_axis(full, np.asarray(mask)[..., None].astype(int), -1)[..., 0]
        np.testing.assert_allclose(best, full.max(-1), atol=1e-4)


def test_the_loss_has_the_auxiliary_heads():
    model = cffm_jax.create_model("fcn_mobilenetv2", 5, dropout=0)
    assert model.clip_frames == 1 and model.training_offsets((9, 6, 3)) == ()
    rng, t = np.random.default_rng(1), 2  # Frames of a clip are ordinary ones.
    batch = {
        "frames": rng.integers(0, 256, (1, t, 33, 41, 3), np.uint8),
        "labels": rng.integers(0, 5, (1, t, 33, 41), np.uint8),
        "size": np.array([[33, 41]], np.int32),
    }
    variables = lively(model)
    (loss, parts), updates = jax.jit(
        lambda v: model.apply(
            v, batch, 0.5, method="loss", mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)}
        )
    )(variables)
    np.testing.assert_allclose(loss, parts["head_loss"] + 0.4 * parts["auxiliary_loss"], rtol=1e-6)

    def outputs(variables):
        frames = normalise(batch["frames"])[0]
        maps, _ = model.apply(variables, frames, True, method="encode", mutable=["batch_stats"])
        return model.apply(variables, maps, True, method="head_logits", mutable=["batch_stats"])[0]

    for name, logits in zip(("head_loss", "auxiliary_loss"), jax.jit(outputs)(variables), strict=True):
        np.testing.assert_allclose(parts[name], cross_entropy(logits, batch["labels"][0]), rtol=1e-4, err_msg=name)
    moved = jax.tree.map(lambda new, old: np.abs(new - old).max() > 0, updates["batch_stats"], variables["batch_stats"])
    assert all(jax.tree.leaves(moved))
