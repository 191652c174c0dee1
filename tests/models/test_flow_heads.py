"""NetWarp and ETC: the VSPW baselines' outputs, a stream against the clip, losses, RAFT's weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cffm_jax
from cffm_jax.config import Config, DataConfig
from cffm_jax.inference.streaming import StreamSegmenter
from cffm_jax.models.flow.motion import motion_loss
from cffm_jax.models.losses import cross_entropy
from cffm_jax.models.normalise import denormalise, normalise
from cffm_jax.models.variables import count_parameters
from cffm_jax.weights.naming.match import dead_arrays, export_state_dict

from helpers import golden_values
from helpers.drawn import lively
from helpers.golden_values import assert_compared, drawn_maps

SIZE = (33, 45)
SMALL = {"flow": "raft_small", "flow_updates": 2, "receptive": (7,), "pooling": (7,)}
NAMES = ("netwarp_psp", "netwarp_ocr")


def nhwc(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 2, 3, 1)


def drawn(entry: dict, *names: str) -> list[np.ndarray]:
    return [nhwc(golden_values.draw_input(name, entry[name], entry["seed"])) for name in names]


def batch_of(labelled: int = 2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "frames": rng.integers(0, 256, (1, 2, *SIZE, 3), np.uint8),
        "labels": rng.integers(0, 5, (1, labelled, *SIZE), np.uint8),
        "size": np.array([SIZE], np.int32),
    }


@functools.cache
def small(name: str):
    model = cffm_jax.create_model(f"{name}_mobilenetv2", 5, **SMALL)
    return model, lively(model)


@pytest.mark.parametrize("name", NAMES)
def test_netwarps_heads_of_the_release(name):
    case = f"{name}_12x16"
    entry = golden_values.manifest()[case]
    model = cffm_jax.create_model(f"{name}_r101", 124)
    weights = golden_values.state_dict(case) | golden_values.state_dict("netwarp_flowcnn_12x16")
    variables = cffm_jax.convert_state_dict(weights, model, part="head")
    flow = entry["flow_factor"] * drawn(entry, "flow")[0]

    def outputs(model, maps):
        regions = model.regions(maps)
        of_target, of_before = ((regions[i : i + 1] if model.head.READS_REGIONS else None) for i in range(2))
        target, before = maps[-1][:1], maps[-1][1:]
        return model.warped(target, of_target, before, model.own_features(before, of_before), flow)

    logits = jax.jit(lambda variables, maps: model.apply(variables, maps, method=outputs))(variables, drawn_maps(entry))
    assert_compared(case, {"logits": logits})
    released = export_state_dict(variables, model, part="head")
    ours = {key: weights[key] for key in weights if not key.endswith("num_batches_tracked")}
    dead = dead_arrays(model, released)
    assert {key: value.shape for key, value in {**dead, **released}.items() if key in weights} == {
        key: value.shape for key, value in weights.items()
    }
    for key, value in released.items():
        np.testing.assert_array_equal(value, ours[key])


def test_the_flow_cnn_of_the_release():
    entry, case = golden_values.manifest()["netwarp_flowcnn_12x16"], "netwarp_flowcnn_12x16"
    model = cffm_jax.create_model("netwarp_psp_r101", 124)
    weights = golden_values.state_dict("netwarp_psp_12x16") | golden_values.state_dict(case)
    variables = cffm_jax.convert_state_dict(weights, model, part="head")
    frames, before, flow = drawn(entry, "image1", "image2", "flow")
    frames, before = (127.5 + 50 * np.tanh(each) for each in (frames, before))
    found = model.apply(variables, 3 * flow, frames, before, method=lambda model, *x: model.flow_cnn(*x))
    stored = nhwc(golden_values.arrays(case)["flow"])
    np.testing.assert_allclose(found, stored, rtol=0, atol=5e-6 * entry["largest"]["flow"])
    assert found.min() == 0  # The last ReLU is there.


def test_the_motion_loss_of_the_release():
    entry, case = golden_values.manifest()["etc_loss_12x16"], "etc_loss_12x16"
    frames, before, logits, logits_before, flow = drawn(entry, "image1", "image2", "logits1", "logits2", "flow")
    flow = entry["flow_factor"] * flow
    loss = 0.1 * motion_loss(frames, before, logits, logits_before, flow, "release")
    np.testing.assert_allclose(loss, golden_values.arrays(case)["st_loss"], rtol=5e-5)
    still = motion_loss(frames, frames, logits, logits, np.zeros_like(flow), "exact")
    np.testing.assert_allclose(still, 0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "live", "dead"),
    [  # "What they compute", the papers' M: ETC 89.42 and 58.10, NetWarp 89.44 and 58.11.
        ("etc_psp", 70_544_568, 18_875_392),
        ("netwarp_psp", 70_563_800, 18_875_392),
        ("etc_ocr", 58_096_568, 0),
        ("netwarp_ocr", 58_108_632, 0),
    ],
)
def test_parameters(name, live, dead):
    model = cffm_jax.create_model(f"{name}_r101", 124)
    assert count_parameters(model) == live
    unused = {"conv_last_.0.weight": np.zeros((512, 4096, 3, 3)), "conv_last_.1.weight": np.zeros(512)}
    unused |= {"conv_last_.1.bias": np.zeros(512)}
    found = dead_arrays(model, unused if dead else {})
    assert sum(array.size for key, array in found.items() if "tracked" not in key) == dead


@pytest.mark.parametrize("name", ["netwarp_psp", pytest.param("netwarp_ocr", marks=pytest.mark.long)])
def test_a_stream_equals_the_clip(name):
    model, variables = small(name)
    config = Config(data=DataConfig(frame_size=(0, 0), offsets=(1,)))
    segmenter = StreamSegmenter(model, config, SIZE, logits=True)
    frames = np.random.default_rng(0).integers(0, 256, (3, 1, *SIZE, 3), np.uint8)
    apply, state = jax.jit(functools.partial(model.apply, method="clip_outputs")), segmenter.start()
    for t, frame in enumerate(frames):
        state, segmented = segmenter.segment(variables, state, frame)
        clip = normalise(np.stack([frames[max(t - 1, 0)], frame], 1).reshape(2, *SIZE, 3))[None]
        expected = apply(variables, clip).logits
        swapped = apply(variables, clip[:, [1, 1]]).logits
        assert np.abs(expected - swapped).max() > 0.01 * np.abs(expected).max() or t == 0
        np.testing.assert_allclose(segmented.logits, expected, rtol=0, atol=1e-3 * np.abs(expected).max())


@pytest.mark.long
def test_etc_segments_as_its_image_system():
    model, variables = small("etc_psp")
    image = cffm_jax.create_model("pspnet_mobilenetv2", 5, form="vspw")
    own = {c: {part: tree for part, tree in parts.items() if part != "flow"} for c, parts in variables.items()}
    frames = normalise(np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3), np.uint8))
    found, expected = (
        jax.jit(functools.partial(each.apply, method="frame_logits"))(weights, frames)
        for each, weights in ((model, variables), (image, own))
    )
    np.testing.assert_array_equal(found, expected)


@pytest.mark.long
@pytest.mark.parametrize(("name", "frames"), [("etc_psp", 1), ("etc_ocr", 2), ("netwarp_psp", 1), ("netwarp_ocr", 2)])
def test_losses(name, frames):
    """Their parts by the definition; the auxiliary head's is of the target, or of both frames."""
    model, variables = small(name)
    batch, common = batch_of(), {"mutable": ["batch_stats"], "rngs": {"dropout": jax.random.key(0)}}
    apply = functools.partial(model.apply, frame_loss_weight=0.5, method="loss", **common)
    (loss, parts), updates = jax.jit(apply)(variables, batch)
    motion = parts.get("motion_loss", 0)
    np.testing.assert_allclose(loss, parts["head_loss"] + 0.4 * parts["auxiliary_loss"] + 0.1 * motion, rtol=1e-6)
    jax.tree.map(
        np.testing.assert_array_equal, updates["batch_stats"].get("flow"), variables["batch_stats"].get("flow")
    )
    clips = normalise(jnp.asarray(batch["frames"]))

    def outputs(model, clips):
        if name.startswith("netwarp"):
            found = model.clip_outputs(clips, True)
            return found.logits, found.logits, found.frame_logits
        logits, regions = model.head_logits(model.encode_stages(clips[0], True), True)
        return logits[1:], logits[:1], regions[None]

    (logits, before, regions), _ = jax.jit(lambda v: model.apply(v, clips, method=outputs, **common))(variables)
    beside = [cross_entropy(regions[:, -1 - i], batch["labels"][:, -1 - i]) for i in range(frames)]
    np.testing.assert_allclose(parts["head_loss"], cross_entropy(logits, batch["labels"][:, -1]), rtol=1e-4)
    np.testing.assert_allclose(parts["auxiliary_loss"], np.mean(beside), rtol=1e-4)
    if motion:
        flow = jax.jit(functools.partial(model.apply, method="flow_to"))(variables, clips[:, 0], clips[:, 1])
        expected = motion_loss(clips[:, 1], clips[:, 0], logits, before, flow, "release")
        np.testing.assert_allclose(motion, expected, rtol=1e-3)


def test_denormalise_is_the_inverse():
    frames = np.arange(256 * 3, dtype=np.int64).reshape(1, 16, 16, 3).astype(np.uint8)
    np.testing.assert_allclose(denormalise(normalise(frames)), frames, atol=1e-4)


def test_flow_is_of_colours():
    from cffm_jax.channels import Channels

    with pytest.raises(ValueError, match="reads optical flow"):
        cffm_jax.create_model("etc_psp_r18", 3, channels=Channels(("grey",), (0.0,), (1.0,)))


@pytest.mark.long
def test_macs_count_every_update():
    """The flow of two updates more costs twice as much more as that of one more."""
    flows = [
        cffm_jax.create_model("netwarp_psp_mobilenetv2", 5, **(SMALL | {"flow_updates": n})).macs(
            128, 128, prototypes=0, executed=True
        )["flow"]
        for n in (1, 2, 4)
    ]
    assert flows[2] - flows[1] == 2 * (flows[1] - flows[0]) > 0
    etc = cffm_jax.create_model("etc_ocr_mobilenetv2", 5, **SMALL)
    image = cffm_jax.create_model("ocrnet_mobilenetv2", 5, form="vspw")
    sizes = {"prototypes": 0, "executed": True}
    assert etc.macs(128, 128, **sizes) == image.macs(128, 128, **sizes)
    assert etc.training_macs(128, 128, prototypes=0) > 2 * image.training_macs(128, 128, prototypes=0)
