"""RAFT: the values of torchvision's, its stages, its sizes, its weights; against torchvision (pytest -m reference)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cffm_jax
from cffm_jax.errors import InputError
from cffm_jax.models.flow import raft
from cffm_jax.models.flow.raft import Raft, crop_flow, pad_frames
from cffm_jax.models.resize import resize_corners

from helpers import golden_values

NAMES = tuple(raft.SIZES)
PARAMETERS = {"raft_small": 990_162, "raft_large": 5_257_536}


@functools.cache
def golden_variables(name: str):
    return cffm_jax.convert_state_dict(golden_values.state_dict(f"{name}_128x144"), cffm_jax.create_model(name))


def images(case: str) -> list[np.ndarray]:
    entry = golden_values.manifest()[case]
    drawn = (golden_values.draw_input(image, entry[image], entry["seed"]) for image in ("image1", "image2"))
    return [np.tanh(each).transpose(0, 2, 3, 1) for each in drawn]


@pytest.mark.parametrize("name", [NAMES[0], pytest.param(NAMES[1], marks=pytest.mark.long)])
def test_flow_after_each_update_is_torchvisions(name):
    case = f"{name}_128x144"
    entry, step = golden_values.manifest()[case], golden_values.manifest()[case]["pixel_step"]
    apply = jax.jit(cffm_jax.create_model(name).apply, static_argnames="updates")
    flows = apply(golden_variables(name), *images(case), updates=entry["updates"])
    assert flows.shape == (entry["updates"], 1, 128, 144, 2)
    for i, flow in enumerate(flows, 1):
        expected = golden_values.arrays(case)[f"flow_{i}"].transpose(0, 2, 3, 1)
        tolerance = 5e-6 * entry["largest"][f"flow_{i}"]
        np.testing.assert_allclose(flow[:, ::step, ::step], expected, rtol=0, atol=tolerance)


@pytest.mark.long
def test_a_stream_of_encoded_frames_gives_the_last_flow():
    """And padded frames in 0..255 the same."""
    model, first = cffm_jax.create_model("raft_small"), images("raft_small_128x144")[0]
    frames = np.rint(127.5 * (first[:, :100] + 1)).astype(np.uint8)

    @jax.jit
    def flows(variables, current, previous):
        of = functools.partial(model.apply, variables)
        encoded = [of(pad_frames(frame), method="features") for frame in (current, previous)]
        context = of(pad_frames(current), method="context")
        last = of(encoded[0], context, encoded[1], 2, method="flow")
        every = of(pad_frames(current), pad_frames(previous), 2)
        return last, every, of(current, previous, 2, method="flow_between")

    last, every, between = flows(golden_variables("raft_small"), frames, np.roll(frames, 3, 2))
    np.testing.assert_allclose(last, every[-1], rtol=0, atol=1e-4)
    np.testing.assert_allclose(between, crop_flow(last, (100, 144)), rtol=0, atol=1e-4)


def test_frames_are_padded_on_both_sides_the_odd_pixel_right_and_below():
    frames = np.full((1, 129, 100, 3), 255, np.uint8)
    padded = pad_frames(frames)
    assert padded.shape == (1, 136, 128, 3)
    inside = np.zeros((136, 128), bool)
    inside[3:-4, 14:-14] = True
    assert np.all(np.asarray(padded[0, :, :, 0] == 1) == inside) and padded.min() == -1
    flow = np.arange(136 * 128 * 2, dtype=np.float32).reshape(1, 136, 128, 2)
    np.testing.assert_array_equal(crop_flow(flow, (129, 100)), flow[:, 3:-4, 14:-14])


@pytest.mark.parametrize("size", [(120, 128), (128, 132)])
def test_other_sizes_are_refused(size):
    with pytest.raises(ValueError, match=f"images of {size[0]}x{size[1]}: .*multiples of 8.*; pad them"):
        Raft().apply({}, jnp.zeros((1, *size, 3)), method="features")


def test_a_resize_by_corners_keeps_them_and_lines():
    line = np.linspace(-2, 5, 6, dtype=np.float32)
    np.testing.assert_allclose(resize_corners(line[None, :, None], (48, 1))[0, :, 0], np.linspace(-2, 5, 48), atol=1e-6)


@pytest.mark.long
def test_bfloat16_keeps_the_flow_in_float32():
    image = jnp.zeros((1, 128, 128, 3))
    for name in NAMES:
        model = cffm_jax.create_model(name, dtype="bfloat16")
        flows, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), image, image)
        assert flows.dtype == jnp.float32 and flows.shape == (12, 1, 128, 128, 2)
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


# --- weights


@pytest.mark.parametrize("name", NAMES)
def test_weights_go_there_and_back(name):
    model, theirs = cffm_jax.create_model(name), golden_values.state_dict(f"{name}_128x144")
    variables = golden_variables(name)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == PARAMETERS[name]
    back = cffm_jax.export_state_dict(variables, model, dead=True)
    assert back.keys() == theirs.keys()
    assert all(np.array_equal(back[key], value) for key, value in theirs.items())
    live = {key: value for key, value in theirs.items() if not key.endswith("num_batches_tracked")}
    assert cffm_jax.export_state_dict(variables, model).keys() == live.keys()
    cffm_jax.convert_state_dict(live, model)


def test_weights_that_do_not_fit_are_named():
    weights = golden_values.state_dict("raft_small_128x144")
    weights["flow_head.conv1.bias"] = weights.pop("update_block.flow_head.conv1.bias")
    with pytest.raises(
        InputError, match=r"does not fit raft_small: missing update_block.*; left over flow_head"
    ) as error:
        cffm_jax.convert_state_dict(weights, cffm_jax.create_model("raft_small"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_loaded(name, tmp_path):
    np.savez(tmp_path / "raft.npz", **golden_values.state_dict(f"{name}_128x144"))
    weights = cffm_jax.load(tmp_path / "raft.npz")
    assert weights.model == cffm_jax.create_model(name) and weights.origin == "torchvision RAFT"
    jax.tree.map(np.testing.assert_array_equal, weights.variables, golden_variables(name))
    with pytest.raises(InputError, match="of optical flow; give those of a whole model"):
        next(weights.stream([]))


# --- against torchvision's


@pytest.mark.reference
@pytest.mark.parametrize("updates", [12, 20])
@pytest.mark.parametrize("name", NAMES)
def test_flow_of_odd_eighths_is_torchvisions(name, updates, tmp_path):
    from helpers.torchvision_networks import network

    torch = pytest.importorskip("torch")
    theirs = network("models.optical_flow", name)
    assert sum(parameter.numel() for parameter in theirs.parameters()) == PARAMETERS[name]
    torch.save(theirs.state_dict(), tmp_path / "raft.pth")
    weights = cffm_jax.load(tmp_path / "raft.pth")
    rng = np.random.default_rng(0)
    pair = [np.tanh(rng.standard_normal((1, 136, 152, 3))).astype(np.float32) for _ in range(2)]
    with torch.no_grad():
        expected = theirs(*(torch.from_numpy(each.transpose(0, 3, 1, 2).copy()) for each in pair), updates)
    flows = jax.jit(weights.model.apply, static_argnames="updates")(weights.variables, *pair, updates=updates)
    for i, flow in enumerate(expected):
        close = 1e-4 * max(1.0, float(flow.abs().max()))
        np.testing.assert_allclose(flows[i], flow.numpy().transpose(0, 2, 3, 1), rtol=0, atol=close)
