"""State dicts of the release to variables and back, strict both ways."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cffm_jax
from cffm_jax.errors import InputError
from cffm_jax.models.variables import variable_shapes
from cffm_jax.weights.naming.match import convert_state_dict, export_state_dict, is_dead, key_map

from helpers import golden_values

HEAD_OF_CFFM = ("decode_head.decoder_focal.", "decode_head.linear_pred2.")


@pytest.fixture(scope="module")
def model():
    return cffm_jax.create_model("cffm_b0", 124)


@pytest.fixture(scope="module")
def released():
    """The released names with drawn weights; tests copy it before they change it."""
    return golden_values.state_dict("cffm_b0_96x160")


def flat(tree: dict) -> dict[str, np.ndarray]:
    return flax.traverse_util.flatten_dict(tree, sep="/")


def message_of(state_dict: dict, model, **options) -> str:
    with pytest.raises(InputError) as caught:
        convert_state_dict(state_dict, model, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("case", ["cffm_b0_96x160", "cffm_b1_160x224", "train_b0"])
def test_there_and_back_is_the_same_bit_for_bit(case):
    theirs = golden_values.state_dict(case)
    model = cffm_jax.create_model(f"cffm_{golden_values.manifest()[case]['variant']}", 124)
    back = export_state_dict(convert_state_dict(theirs, model), model)
    for key, value in back.items():
        assert value.dtype == np.float32 and value.shape == theirs[key].shape, key
        np.testing.assert_array_equal(value, theirs[key], err_msg=key)
    unused = set(theirs) - set(back)
    assert unused == {key for key in theirs if is_dead(model, key)}
    assert {key for key in unused if not key.endswith("num_batches_tracked")} == {
        "decode_head.conv_seg.weight",
        "decode_head.conv_seg.bias",
    }


def test_cffmpp_there_and_back_but_for_its_dead_weights():
    case = "cffmpp_b1_96x160"
    theirs, model = golden_values.state_dict(case), cffm_jax.create_model("cffmpp_b1", 124)
    back = export_state_dict(convert_state_dict(theirs, model), model)
    for key, value in back.items():
        expected = theirs[key].copy()
        if ".attn.qkv." in key and "decoder_swin" in key:  # Keys and values of a self-attention that is not called.
            expected[256:] = 0
        np.testing.assert_array_equal(value, expected, err_msg=key)
    block = "decode_head.decoder_swin.blocks.0.attn."
    unused = {key for key in set(theirs) - set(back) if not key.endswith("num_batches_tracked")}
    assert unused == {
        "decode_head.conv_seg.weight",
        "decode_head.conv_seg.bias",
        block + "relative_position_bias_table",
        block + "proj.weight",
        block + "proj.bias",
    }
    assert unused <= {key for key in golden_values.manifest()[case]["state_dict"] if is_dead(model, key)}


def test_every_leaf_of_the_model_is_filled(model, released):
    variables = convert_state_dict(released, model)
    shapes = variable_shapes(model)
    assert jax.tree.structure(variables) == jax.tree.structure(shapes)
    for path, leaf in flat(shapes).items():
        array = flat(variables)[path]
        assert array.shape == leaf.shape and array.dtype == np.float32, path


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cffm_b3", {}),
        ("cffm_b4", {}),
        ("cffm_b5", {}),
        ("segformer_b2", {"projection": "normalised"}),
        ("cffmpp_b5", {}),
        ("cffmp_b0", {}),
        ("cffm_pvtv2_b1", {}),
        ("cffmpp_convnext_tiny", {"projection": "normalised"}),
    ],
)
def test_every_size_has_a_key_for_every_leaf(name, options):
    model = cffm_jax.create_model(name, 19, **options)
    leaves = sum(len(flat(tree)) for tree in variable_shapes(model).values())
    assert len(key_map(model)) == leaves, "no two leaves share a key"


def test_pvtv2_has_the_keys_of_mit():
    pvt, mit = (set(key_map(cffm_jax.create_model(f"segformer_{name}", 19))) for name in ("pvtv2_b0", "b0"))
    assert pvt == mit


def test_keys_of_convnext():
    """Its authors': convolution before norm in the first of the downsampling layers, after it in the others."""
    names = key_map(cffm_jax.create_model("segformer_convnext_tiny", 19), "encoder")
    expected = {f"backbone.norm{i}." for i in range(4)}
    expected |= {f"backbone.downsample_layers.{i}.{j}." for i in range(4) for j in range(2)}
    expected |= {
        f"backbone.stages.{i}.{j}.{layer}."
        for i, depth in enumerate((3, 3, 9, 3))
        for j in range(depth)
        for layer in ("dwconv", "norm", "pwconv1", "pwconv2")
    }
    whole = {prefix + leaf for prefix in expected for leaf in ("weight", "bias")}
    whole |= {f"backbone.stages.{i}.{j}.gamma" for i, depth in enumerate((3, 3, 9, 3)) for j in range(depth)}
    assert set(names) == whole

    def shape(key: str) -> tuple[int, ...]:
        _, _, layout, ours = names[key]
        return layout.save(np.empty(ours)).shape

    assert shape("backbone.downsample_layers.0.0.weight") == (96, 3, 4, 4)
    assert shape("backbone.downsample_layers.0.1.weight") == (96,)
    assert shape("backbone.downsample_layers.2.0.weight") == (192,)
    assert shape("backbone.downsample_layers.2.1.weight") == (384, 192, 2, 2)
    assert shape("backbone.stages.2.8.dwconv.weight") == (384, 1, 7, 7)
    assert shape("backbone.stages.2.8.pwconv1.weight") == (1536, 384)
    assert shape("backbone.stages.2.8.gamma") == (384,)


def test_keys_of_normalised_projections():
    linear, normalised = (
        key_map(cffm_jax.create_model("segformer_b0", 19, projection=p)) for p in ("linear", "normalised")
    )
    assert set(linear) - set(normalised) == {f"decode_head.linear_c{i}.proj.bias" for i in range(1, 5)}
    assert set(normalised) - set(linear) == {
        f"decode_head.linear_c{i}.bn.{leaf}"
        for i in range(1, 5)
        for leaf in ("weight", "bias", "running_mean", "running_var")
    }


@pytest.mark.parametrize("name", ["cffmpp_b2", "segformer_pvtv2_b3", "segformer_convnext_tiny"])
def test_shapes_of_one_block_a_stage_are_those_of_all(name):
    model = cffm_jax.create_model(name, 19)
    clips = jax.ShapeDtypeStruct((1, 4, 64, 32, 3), np.float32)
    traced = jax.eval_shape(model.init, jax.random.key(0), clips)
    shapes = variable_shapes(model)
    assert jax.tree.structure(shapes) == jax.tree.structure(traced)
    assert jax.tree.leaves(shapes) == jax.tree.leaves(traced)


def test_kernels_are_the_operations_of_torch(model, released):
    """What each layout means, on the leaves where shapes alone could not tell a mistake."""
    params = convert_state_dict(released, model)["params"]
    dense = released["decode_head.decoder_focal.blocks.0.attn.proj.weight"]
    np.testing.assert_array_equal(params["local_0"]["proj"]["kernel"][3, 5], dense[5, 3])
    conv = released["backbone.patch_embed2.proj.weight"]
    np.testing.assert_array_equal(params["encoder"]["stage2"]["embed"]["kernel"][1, 2, 7, 9], conv[9, 7, 1, 2])
    depthwise = released["backbone.block1.0.mlp.dwconv.dwconv.weight"]
    np.testing.assert_array_equal(
        params["encoder"]["stage1"]["block0"]["mlp"]["dwconv"]["kernel"][0, 2, 5], depthwise[5, 0, 0, 2]
    )
    fuse = released["decode_head.linear_fuse.conv.weight"]
    np.testing.assert_array_equal(params["decoder"]["fuse"][0, 3, 5], fuse[5, 3, 0, 0])  # Stage 4 comes first.
    np.testing.assert_array_equal(params["decoder"]["fuse"][3, 3, 5], fuse[5, 768 + 3, 0, 0])
    own = released["decode_head.decoder_focal.blocks.0.attn.relative_position_bias_table"]
    np.testing.assert_array_equal(params["local_0"]["bias_own"][2, 4, 6], own[4 * 13 + 6, 2])
    far = released["decode_head.decoder_focal.blocks.0.attn.relative_position_bias_table_to_windows_clips.0"]
    np.testing.assert_array_equal(params["local_0"]["bias_far"][2, 4, 6], far[2, 4 * 13 + 6])


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_types_become_float32(model, released, dtype):
    variables = convert_state_dict({key: value.astype(dtype) for key, value in released.items()}, model)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}


def test_the_given_state_dict_is_left_alone(model, released):
    before = {key: value.copy() for key, value in released.items()}
    variables = convert_state_dict(released, model)
    for leaf in jax.tree.leaves(variables):
        leaf += 1
    assert all(np.array_equal(released[key], before[key]) for key in before)


# --- faults --------------------------------------------------------------------------------------------------------


def test_all_faults_are_listed_in_one_line(model, released):
    broken = dict(released)
    del broken["backbone.norm4.weight"]
    del broken["decode_head.linear_pred2.bias"]
    broken["backbone.norm4.wieght"] = np.ones(256, np.float32)
    broken["auxiliary.weight"] = np.ones(3, np.float32)
    broken["backbone.norm1.bias"] = np.ones(31, np.float32)
    broken["decode_head.linear_pred.weight"] = np.ones((19, 256, 1, 1), np.float32)
    message = message_of(broken, model, source="cffm.pth")
    assert message.startswith("cffm.pth: does not fit cffm_b0 with 124 classes: ")
    assert "missing backbone.norm4.weight (nearest: backbone.norm4.wieght)" in message
    assert "left over backbone.norm4.wieght (nearest: backbone.norm4.weight)" in message
    assert "missing decode_head.linear_pred2.bias" in message
    assert "left over auxiliary.weight" in message
    assert "backbone.norm1.bias is [31], not [32]" in message
    assert "decode_head.linear_pred.weight is [19, 256, 1, 1], not [124, 256, 1, 1]" in message


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("backbone.block1.0.mlp.fc1.weight", lambda x: x.T),
        ("backbone.patch_embed2.proj.weight", lambda x: x.transpose(2, 3, 1, 0)),
        ("decode_head.linear_pred.weight", lambda x: x[:, :, 0, 0]),
        ("decode_head.decoder_focal.blocks.0.attn.relative_position_bias_table", lambda x: x.T),
        ("decode_head.linear_fuse.bn.weight", lambda x: x[None]),
    ],
)
def test_the_right_size_in_another_shape_is_refused(model, released, key, change):
    changed = change(released[key])
    message = message_of(released | {key: changed}, model)
    assert f"{key} is {list(changed.shape)}, not {list(released[key].shape)}" in message


def test_each_key_is_needed(model, released):
    """Taking away one live key is noticed, and only that one is named."""
    for key in [*released][::40]:
        if not is_dead(model, key):
            message = message_of({other: value for other, value in released.items() if other != key}, model)
            assert message.split("classes: ")[1].startswith(f"missing {key}; "), message


def test_other_models_weights_are_refused(released):
    assert "left over decode_head.decoder_focal" in message_of(released, cffm_jax.create_model("segformer_b0", 124))
    assert "is [32, 3, 7, 7], not [64, 3, 7, 7]" in message_of(released, cffm_jax.create_model("cffm_b1", 124))
    assert "missing backbone.block1.2.norm1.weight" in message_of(released, cffm_jax.create_model("segformer_b2", 124))
    assert "is [124, 256, 1, 1], not [19, 256, 1, 1]" in message_of(released, cffm_jax.create_model("cffm_b0", 19))


def test_nothing_at_all_is_refused(model):
    for part in ("all", "encoder"):
        assert message_of({}, model, part=part).startswith("state dict: holds no weights of a model that is known here")


# --- parts ---------------------------------------------------------------------------------------------------------


def encoder_of(state_dict: dict) -> dict:
    return {key.removeprefix("backbone."): value for key, value in state_dict.items() if key.startswith("backbone.")}


@pytest.mark.parametrize("form", ["bare", "bare with a head", "prefix", "prefix with a head", "whole model"])
def test_the_encoder_alone(model, released, form):
    head = {"head.weight": np.ones((1000, 256), np.float32), "head.bias": np.ones(1000, np.float32)}
    bare = encoder_of(released)
    given = {
        "bare": bare,
        "bare with a head": bare | head,
        "prefix": {"backbone." + key: value for key, value in bare.items()},
        "prefix with a head": {"backbone." + key: value for key, value in (bare | head).items()},
        "whole model": released,
    }[form]
    part = convert_state_dict(given, model, part="encoder")
    whole = convert_state_dict(released, model)
    assert list(part) == ["params"] and list(part["params"]) == ["encoder"]
    ours, expected = flat(part["params"]), flat({"encoder": whole["params"]["encoder"]})
    assert set(ours) == set(expected)
    for path, array in ours.items():
        np.testing.assert_array_equal(array, expected[path])


def test_the_encoder_alone_is_strict(model, released):
    bare = encoder_of(released)
    fault = {**bare, "pos_embed": np.ones(3)}
    assert "left over pos_embed" in message_of(fault, model, part="encoder")
    assert "missing norm4.bias" in message_of(
        {key: value for key, value in bare.items() if key != "norm4.bias"}, model, part="encoder"
    )


@pytest.mark.parametrize("dead", [True, False], ids=["with the dead classifier", "without"])
def test_a_segformer_is_a_cffm_without_its_blocks(model, released, dead):
    segformer = cffm_jax.create_model("segformer_b0", 124)
    theirs = {
        key: value
        for key, value in released.items()
        if not key.startswith(HEAD_OF_CFFM) and (dead or not key.startswith("decode_head.conv_seg"))
    }
    ours = {c: flat(tree) for c, tree in convert_state_dict(theirs, segformer).items()}
    whole = {c: flat(tree) for c, tree in convert_state_dict(released, model).items()}
    for collection, leaves in ours.items():
        for path, array in leaves.items():
            np.testing.assert_array_equal(array, whole[collection][path], err_msg=path)
    assert {path for path in set(whole["params"]) - set(ours["params"])} == {
        path for path in whole["params"] if path.startswith(("local_", "clip_classifier"))
    }


def test_a_gradient_tree_is_exported_too(model, released):
    params = convert_state_dict(released, model)["params"]
    gradients = jax.tree.map(lambda x: jnp.asarray(2 * x), params)
    theirs = export_state_dict({"params": gradients}, model)
    trained = golden_values.manifest()["train_b0"]["grad_norms"]
    assert set(theirs) == set(trained), "one gradient for every parameter that the release trains"
    for key, value in theirs.items():
        assert isinstance(value, np.ndarray)
        np.testing.assert_array_equal(value, 2 * released[key], err_msg=key)


@pytest.mark.parametrize(
    ("key", "dead"),
    [
        ("decode_head.conv_seg.weight", True),
        ("decode_head.linear_fuse.bn.num_batches_tracked", True),
        ("decode_head.decoder_focal.blocks.0.attn.relative_position_index", True),
        ("decode_head.decoder_focal.blocks.0.attn.relative_position_index_to_windows_clips.1", True),
        ("decode_head.decoder_focal.blocks.1.attn.valid_ind_rolled", True),
        ("head.weight", True),
        ("backbone.head.bias", True),
        ("decode_head.linear_pred.weight", False),
        ("decode_head.linear_fuse.bn.running_mean", False),
        ("decode_head.decoder_focal.blocks.0.attn.relative_position_bias_table", False),
        ("backbone.block1.0.attn.head.weight", False),
    ],
)
def test_dead_keys(model, key, dead):
    assert is_dead(model, key) == dead


def test_released_buffers_are_ignored(model, released):
    buffers = {
        "decode_head.decoder_focal.blocks.0.attn.relative_position_index": np.zeros((49, 49), np.int64),
        "decode_head.decoder_focal.blocks.0.attn.valid_ind_rolled": np.zeros(132, np.int64),
    }
    assert export_state_dict(convert_state_dict(released | buffers, model), model).keys().isdisjoint(buffers)
