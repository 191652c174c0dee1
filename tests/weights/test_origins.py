"""Other people's names for the same weights, written here from the released ones, without their libraries."""

import json
import re
import zlib

import jax
import numpy as np
import pytest
import safetensors.numpy

import cffm_jax
from cffm_jax.errors import InputError
from cffm_jax.models.encoders import convnext, mit
from cffm_jax.models.encoders import names as encoders
from cffm_jax.models.foreign import layouts
from cffm_jax.models.foreign.names import HeadOrigin, Layer, MethodNames, fields_of, rules
from cffm_jax.models.methods import cffm_names
from cffm_jax.weights.naming import recognise as recognition
from cffm_jax.weights.naming.foreign import Foreign
from cffm_jax.weights.naming.match import convert_state_dict, dead_arrays, describe, is_dead, key_map
from cffm_jax.weights.naming.origins import BACKBONE, Naming
from cffm_jax.weights.naming.recognise import recognise

from helpers import golden_values

SETTINGS = {
    "Hugging Face SegFormer": ("segformer_b0", {"norm_epsilons": (1e-5, 1e-5)}),
    "MMSegmentation SegFormer": ("segformer_b0", {"norm_epsilons": (1e-6, 1e-6), "projection": "normalised"}),
    "Hugging Face PVTv2": ("segformer_pvtv2_b1", {}),
    "timm PVTv2": ("segformer_pvtv2_b1", {}),
    "ConvNeXt": ("segformer_convnext_tiny", {}),
    "Hugging Face ConvNeXt": ("segformer_convnext_tiny", {}),
    "timm ConvNeXt": ("segformer_convnext_tiny", {}),
    "MMSegmentation ResNet (v1c)": ("pspnet_r18", {}),
    "ResNet of the VSPW baselines": ("ocrnet_r18", {"form": "vspw"}),
    "torchvision ResNet": ("upernet_r18_plain", {}),
    "ResNet of ETC's code": ("etc_psp_r18", {"form": "etc"}),
    "MMSegmentation MobileNetV2": ("fcn_mobilenetv2", {}),
    "torchvision MobileNetV2": ("fcn_mobilenetv2", {}),
}
CASES = encoders.origins()[1:]
every_origin = pytest.mark.parametrize("origin", CASES, ids=[f"{i} {o.name}" for i, o in enumerate(CASES)])


def naming_of(origin):
    return Naming(origin, model_of(origin).foreign_names if origin in CASES else cffm_names.NAMES)


def model_of(origin):
    whole = Naming(origin, cffm_names.NAMES).name("segformer")
    names = [name for name in (origin.name, whole) if name in SETTINGS]
    name, settings = SETTINGS[names[0]]
    return cffm_jax.create_model(name, 7, **settings)


def drawn(key, shape):
    return np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape, np.float32)


def released(model, encoder=False):
    """Drawn weights in the released layout."""
    keys = key_map(model, "encoder" if encoder else "all")
    return {key: drawn(key, layout.save(np.empty(shape, bool)).shape) for key, (_, _, layout, shape) in keys.items()}


def renamed(origin, state_dict):
    """The same weights as that origin names and lays them out: the inverse of its rules."""
    found = {}
    for key, value in state_dict.items():
        sources = naming_of(origin).sources(key)
        if sources is None:  # timm's ConvNeXt has no norms of the stages.
            continue
        names, combine = sources
        if combine is np.concatenate:
            found |= dict(zip(names, np.split(value, 2), strict=True))
        elif combine is layouts.first_third:
            found[names[0]] = np.concatenate([value, found.pop(names[0], value[:0])])
        elif combine is layouts.other_thirds:
            found[names[0]] = np.concatenate([found.pop(names[0], value[:0]), value])
        elif combine is layouts.dense:
            found[names[0]] = value[:, :, None, None] if names[0].endswith("weight") and value.ndim == 2 else value
        elif combine is cffm_names.stages_reversed:
            found[names[0]] = cffm_names.stages_reversed([value])
        else:
            found[names[0]] = value
    return found


def exported(model, state_dict):
    """Under the prefix that the encoder's own authors have."""
    prefix = encoders.backbone_of(model.backbone).origins[0].prefix
    return {re.sub(rf"^{re.escape(BACKBONE)}", prefix, key): value for key, value in state_dict.items()}


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def has_head(origin):
    return naming_of(origin).head is not None


@every_origin
def test_its_names_give_the_same_weights(origin):
    model = model_of(origin)
    encoder = not has_head(origin)
    state_dict = released(model, encoder)
    theirs = renamed(origin, state_dict)
    if not encoder:
        found = recognise(describe(theirs), "file")
        assert found.naming.origin is origin and cffm_jax.create_model(**found.settings("file")) == model
        assert found.settings("file")["num_classes"] == 7 and found.family == model.family
        assert_same(convert_state_dict(theirs, model), convert_state_dict(exported(model, state_dict), model))
    if origin is convnext.TIMM:
        return  # Without norms of the stages it fills no model: see test_open_and_start.py.
    of_encoder = Foreign(naming_of(origin), {}, {}).is_encoder_key
    bare = {key.removeprefix(origin.prefix): value for key, value in theirs.items() if of_encoder(key)}
    expected = convert_state_dict(exported(model, released(model, True)), model, part="encoder")
    for names in (bare, {f"module.{key}": value for key, value in bare.items()}):
        found = recognise(describe(names), "file")
        assert found.naming.origin is origin and found.family == "encoder"
        assert found.backbone == model.backbone
        assert_same(convert_state_dict(names, model, part="encoder"), expected)


@every_origin
def test_every_rule_of_it_is_used(origin):
    model = model_of(origin)
    keys = key_map(model, "all" if has_head(origin) else "encoder")
    head = naming_of(origin).head
    for prefix, table in ((BACKBONE, origin.rules), ("", head.rules if head else ())):
        for rule in table:
            assert any(fields_of(prefix + rule.released, key) is not None for key in keys), rule


@every_origin
def test_faults_are_told_in_its_own_names(origin):
    model = model_of(origin)
    encoder = not has_head(origin)
    theirs = renamed(origin, released(model, encoder))
    gone, wrong = [key for key in theirs if origin.prefix in key][3::50][:2]
    theirs[f"{gone}z"] = theirs.pop(gone)
    theirs[wrong] = np.ones((*theirs[wrong].shape, 2), np.float32)
    with pytest.raises(InputError) as caught:
        convert_state_dict(theirs, model, part="encoder" if encoder else "all", source="weights.pth")
    message = str(caught.value)
    assert message.startswith("weights.pth: does not fit") and "\n" not in message
    assert f"missing {gone}" in message and f"left over {gone}z" in message
    assert re.search(rf"{re.escape(wrong)}[^;]* is \[[^;]*, 2\][^;]*, not \[", message), message


def test_a_released_key_that_an_origin_has_no_name_for_is_left_over():
    origin, model = convnext.TIMM, model_of(convnext.TIMM)
    theirs = renamed(origin, released(model, True)) | {"backbone.norm0.weight": np.ones(96, np.float32)}
    bare = {key.removeprefix(origin.prefix): value for key, value in theirs.items()}
    with pytest.raises(InputError, match=r"left over norm0\.weight"):
        convert_state_dict(bare, model, part="encoder")


def test_names_of_no_model():
    arrays = describe({"conv1.weight": np.ones((3, 3)), "fc.bias": np.ones(3)})
    with pytest.raises(InputError, match=r"weights.pth: holds no weights of a model .*conv1.weight.*NVlabs SegFormer"):
        recognise(arrays, "weights.pth")


OTHER_NETWORKS = {
    "BertModel": ("embeddings.word_embeddings.weight", "embeddings.LayerNorm.weight", "encoder.layer.{}.output.bias"),
    "ViTModel": ("embeddings.patch_embeddings.projection.weight", "embeddings.cls_token", "encoder.layer.{}.x.bias"),
    "SwinModel": ("embeddings.norm.weight", "encoder.layers.{}.blocks.0.layernorm_before.weight"),
    "ResNetModel": ("embedder.embedder.normalization.bias", "encoder.stages.{}.layers.0.layer.0.normalization.bias"),
    "timm's ViT": ("patch_embed.proj.weight", "blocks.{}.norm1.weight"),
}
"""Some keys of each, as transformers and timm have them; {} a number."""


@pytest.mark.parametrize("network", OTHER_NETWORKS)
def test_a_network_that_shares_some_names_is_none_of_the_known(network, tmp_path):
    keys = [key.format(number) for key in OTHER_NETWORKS[network] for number in range(4)]
    arrays = {key: np.ones(8, np.float32) for key in keys}
    safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=f"holds no weights of a model that is known here .*{min(keys)}") as caught:
        cffm_jax.load(tmp_path / "model.safetensors")
    assert "config.json" not in str(caught.value)
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [network]}))
    with pytest.raises(InputError, match=f"its config.json says {network}"):
        cffm_jax.load(tmp_path / "model.safetensors")


@pytest.mark.parametrize("size", ["b0", "b1", "b2", "b3", "b4", "b5", "pvtv2_b0", "pvtv2_b2", "convnext_small"])
def test_the_size_is_told_by_the_shapes(size):
    """From descriptions alone: no array is made."""
    model = cffm_jax.create_model(f"cffm_{size}", 19)
    shapes = {
        key: layout.save(np.broadcast_to(False, shape)).shape for key, (_, _, layout, shape) in key_map(model).items()
    }
    arrays = describe({key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()})
    found = recognise(arrays, "file").settings("file")
    assert (found["name"], found["num_classes"]) == (f"cffm_{size}", 19) and "blocks" not in found


def test_numbers_of_blocks_that_are_not_the_papers():
    model = cffm_jax.create_model("cffmpp_b0", 3, blocks=3, global_blocks=2)
    shapes = {
        key: layout.save(np.broadcast_to(False, shape)).shape for key, (_, _, layout, shape) in key_map(model).items()
    }
    found = recognise(describe({key: np.zeros(shape, np.float32) for key, shape in shapes.items()}), "file").settings(
        "file"
    )
    assert (found["name"], found["blocks"], found["global_blocks"]) == ("cffmpp_b0", 3, 2)


@pytest.mark.parametrize("dtype", [np.int64, np.bool_, np.complex64])
def test_weights_that_are_no_floats_are_refused(dtype):
    model = cffm_jax.create_model("segformer_b0", 3)
    state_dict = released(model)
    state_dict["backbone.norm1.weight"] = state_dict["backbone.norm1.weight"].astype(dtype)
    with pytest.raises(InputError, match=f"backbone.norm1.weight is of type {np.dtype(dtype).name}"):
        convert_state_dict(state_dict, model)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_values_that_are_not_finite_are_refused(value):
    model = cffm_jax.create_model("segformer_b0", 3)
    state_dict = {key: array.astype(np.float64) for key, array in released(model).items()}
    state_dict["backbone.norm1.weight"][3] = value
    with pytest.raises(InputError, match="not finite .*encoder/stage1/norm/scale; "):
        convert_state_dict(state_dict, model)


def test_dead_weights_are_the_releases():
    """What is written as zeros are the keys and shapes of the released files."""
    for case in ("cffm_b0_96x160", "cffmpp_b1_96x160"):
        model = cffm_jax.create_model(case.rpartition("_")[0], 124)
        shapes = golden_values.manifest()[case]["state_dict"]
        live = {key: np.empty(shape, np.float32) for key, shape in shapes.items() if not is_dead(model, key)}
        dead = dead_arrays(model, live)
        assert {key: list(array.shape) for key, array in dead.items()} == {
            k: shapes[k] for k in shapes if k not in live
        }
        assert not any(array.any() for array in dead.values())


def test_a_methods_names_are_one_table(monkeypatch):
    """A file has the method with names for most of its keys; no other place needs to know the method."""
    rows = (Layer("pool", "decode_head.psp", layouts.CONV),)
    keys = ("decode_head.psp.{leaf}", "decode_head.seg.{leaf}")
    head = HeadOrigin({"": "MMSegmentation PSPNet"}, rules(*zip(keys, keys)))
    other = MethodNames("decode_head.", rows, {"MMSegmentation": head}, {"psp": ()})
    monkeypatch.setattr(recognition, "FOREIGN_NAMES", (cffm_names.NAMES, other))
    ours = renamed(mit.MMSEGMENTATION, released(model_of(mit.MMSEGMENTATION)))
    theirs = {key: value for key, value in ours.items() if key.startswith("backbone.")}
    theirs |= {f"decode_head.{layer}.weight": np.ones((3, 3), np.float32) for layer in ("psp", "seg")}
    found = recognise(describe(theirs), "file")
    assert (found.family, found.naming.name(found.family), found.backbone) == ("psp", "MMSegmentation PSPNet", "b0")
    assert recognise(describe(ours), "file").family == "segformer"
