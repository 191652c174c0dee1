"""From the file to the logits, for every origin of whole models: weights that torch, safetensors and transformers
wrote, loaded here, against what their own models compute (pytest -m reference). Encoders: tests/models/encoders."""

import jax
import numpy as np
import pytest
import safetensors.numpy

from cffm_jax.commands.convert import convert_command
from cffm_jax.runtime.command_line import run_command

from helpers import golden_values
from helpers.reference import (
    CLASSES,
    KINDS,
    agree,
    as_mmcv,
    converted,
    drawn,
    frame_logits,
    golden_input,
    nhwc,
    save_as,
    segformer_config,
    theirs,
    torch,
    transformers,
)  # fmt: skip

pytestmark = pytest.mark.reference

AUTHORS = [("cffm_b0_96x160", kind) for kind in KINDS] + [("cffmpp_b1_96x160", "pth legacy")]

# --- the release -----------------------------------------------------------------------------------------------------


def golden_clips(case):
    frames = golden_input(case)
    n, c, h, w = frames.shape
    return frames.reshape(n // 4, 4, c, h, w).transpose(0, 1, 3, 4, 2)


@pytest.mark.parametrize(("case", "kind"), AUTHORS)
def test_the_authors_models(tmp_path, case, kind):
    weights = converted(save_as(kind, golden_values.state_dict(case), tmp_path, as_mmcv), tmp_path)
    assert weights.config.model.name == case.rpartition("_")[0] and weights.config.model.num_classes == 124
    more = {"prototypes": golden_input(case, "prototypes")} if "pp" in case else {}
    ours = jax.jit(weights.model.apply)(weights.variables, golden_clips(case), **more)
    agree(np.asarray(ours), golden_values.arrays(case)["logits"].transpose(0, 2, 3, 1), 2e-5)


def test_nvlabs_segformer(tmp_path):
    case = "cffm_b0_96x160"
    parts = ("decode_head.decoder_focal.", "decode_head.linear_pred2.")
    state_dict = {k: v for k, v in golden_values.state_dict(case).items() if not k.startswith(parts)}
    weights = converted(save_as("pth", state_dict, tmp_path, as_mmcv), tmp_path)
    assert weights.origin == "NVlabs SegFormer" and weights.config.model.name == "segformer_b0"
    expected = golden_values.arrays(case)["single_frame_logits"].transpose(0, 2, 3, 1)
    agree(np.asarray(frame_logits(weights, golden_clips(case)[:, 0])), expected, 2e-5)


# --- Hugging Face ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "width"), [("single", 96), ("shards", 256), ("folder of shards", 256), ("state dict", 256), ("file", 256)]
)
def test_huggingface_segformer(tmp_path, form, width):
    model = drawn(transformers.SegformerForSemanticSegmentation(segformer_config(decoder_hidden_size=width)))
    path = tmp_path / "model"
    if form == "state dict":
        path = tmp_path / "live.pth"
        torch.save(model.state_dict(), path)
    else:
        model.save_pretrained(path, max_shard_size="2MB" if "shards" in form else "1GB")
        assert (path / "model.safetensors.index.json").is_file() == ("shards" in form)
        path = {"shards": path / "model.safetensors.index.json", "file": path / "model.safetensors"}.get(form, path)
    weights = converted(path, tmp_path)
    found = weights.config.model
    assert (found.name, found.num_classes, found.width) == ("segformer_b0", CLASSES, width)
    agree(np.asarray(frame_logits(weights)), nhwc(theirs(model).logits))


# --- MMSegmentation -----------------------------------------------------------------------------------------------


def test_mmsegmentation_segformer(tmp_path):
    from helpers.mmsegmentation import Segmentor

    model = drawn(Segmentor("b0", CLASSES))
    state_dict = {"meta": {"mmengine_version": "0.10"}, "state_dict": model.state_dict(), "message_hub": {"a": 1}}
    torch.save(state_dict, tmp_path / "iter_160000.pth")
    weights = converted(tmp_path / "iter_160000.pth", tmp_path)
    found = weights.config.model
    assert (found.name, found.num_classes, found.projection) == ("segformer_b0", CLASSES, "normalised")
    agree(np.asarray(frame_logits(weights)), nhwc(theirs(model)))


# --- and out again ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["torch", "safetensors"])
def test_torch_reads_what_is_written(tmp_path, to):
    """Every key that the release has, the live ones to the bit, the dead ones as zeros."""
    case = "cffmpp_b1_96x160"
    original = golden_values.state_dict(case)
    output = tmp_path / "out"
    source = save_as("pth", original, tmp_path)
    assert run_command(convert_command, [str(source), str(output), "--to", to]) == 0
    if to == "torch":
        checkpoint = torch.load(output, weights_only=True)
        assert checkpoint["meta"]["cffm_jax"]["model"]["name"] == "cffmpp_b1"
        found = {key: value.numpy() for key, value in checkpoint["state_dict"].items()}
    else:
        found = safetensors.numpy.load_file(output)
    assert found.keys() == original.keys()
    for key, value in original.items():
        assert found[key].shape == value.shape and found[key].dtype == value.dtype, key
        dead = key.startswith("decode_head.conv_seg") or "tracked" in key
        dead |= "decoder_swin" in key and (".attn.proj." in key or "relative_position" in key)
        expected = np.zeros_like(value) if dead else value.copy()
        if "decoder_swin" in key and ".attn.qkv." in key:
            expected[256:] = 0
        np.testing.assert_array_equal(found[key], expected, err_msg=key)
