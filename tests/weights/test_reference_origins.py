"""From the file to the logits, for every origin: weights written by torch, safetensors and transformers, loaded here,
against what their own models compute (pytest -m reference)."""

from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

import cffm_jax
from cffm_jax.models.encoders import convnext
from cffm_jax.models.encoders.mit import HEADS, REDUCTIONS, SIZES
from cffm_jax.runtime.command_line import run_command

from helpers import golden_values

pytestmark = pytest.mark.reference
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CLASSES = 7
FRAMES = np.random.default_rng(0).standard_normal((2, 64, 96, 3)).astype(np.float32)


def drawn(module):
    """The module with drawn weights and statistics, so that nothing hides behind zeros and ones, in evaluation mode."""
    weights = {key: golden_values.draw(key, value.shape) for key, value in module.state_dict().items()}
    module.load_state_dict({key: torch.from_numpy(np.asarray(value)) for key, value in weights.items()})
    return module.eval()


def theirs(module, frames=FRAMES):
    with torch.no_grad():
        return module(torch.from_numpy(frames.transpose(0, 3, 1, 2).copy()))


def nhwc(tensor):
    return tensor.numpy().transpose(0, 2, 3, 1)


def agree(ours, expected, tolerance=5e-5):
    assert ours.shape == expected.shape and expected.std() > 0.1
    np.testing.assert_allclose(ours, expected, rtol=0, atol=tolerance)


def converted(path, folder):
    """Loads the file itself, and what ``convert.py`` makes of it: both are the same to the bit."""
    from cffm_jax.commands.convert import convert_command

    output = Path(folder) / "converted.safetensors"
    assert run_command(convert_command, [str(path), str(output)]) == 0
    direct, again = cffm_jax.load(path), cffm_jax.load(output)
    assert jax.tree.structure(direct.variables) == jax.tree.structure(again.variables)
    for a, b in zip(jax.tree.leaves(direct.variables), jax.tree.leaves(again.variables), strict=True):
        np.testing.assert_array_equal(a, b)
    assert again.config.model == direct.config.model and again.origin == direct.origin
    return again


def frame_logits(weights, frames=FRAMES):
    return jax.jit(lambda v, x: weights.model.apply(v, x, method="frame_logits"))(weights.variables, frames)


def maps(weights, frames=FRAMES):
    """The four maps of an encoder."""
    return jax.jit(weights.model.apply)(weights.variables, frames)


def as_tensors(state_dict):
    return {key: torch.from_numpy(np.array(value)) for key, value in state_dict.items()}


def save_as(kind, state_dict, folder, wrap=lambda x: x):
    """The file of a state dict, written by the library whose format it is."""
    path = Path(folder) / f"weights.{kind.split()[0]}"
    if kind == "safetensors":
        safetensors.numpy.save_file({key: np.ascontiguousarray(value) for key, value in state_dict.items()}, path)
    elif kind == "npz":
        np.savez(path, **state_dict)
    else:
        torch.save(wrap(as_tensors(state_dict)), path, _use_new_zipfile_serialization=kind == "pth")
    return path


def as_mmcv(weights):
    """A checkpoint as mmcv's runners write it."""
    return {
        "meta": {"epoch": 1, "iter": 160000, "CLASSES": ("wall",)},
        "state_dict": weights,
        "optimizer": {"state": {}},
    }


KINDS = ("pth", "pth legacy", "safetensors", "npz")
AUTHORS = [("cffm_b0_96x160", kind) for kind in KINDS] + [("cffmpp_b1_96x160", "pth legacy")]

# --- the release -----------------------------------------------------------------------------------------------------


def golden_input(case, name="frames"):
    entry = golden_values.manifest()[case]
    return golden_values.draw_input(name, entry[name], entry["seed"])


def golden_clips(case):
    frames = golden_input(case)
    n, c, h, w = frames.shape
    return frames.reshape(n // 4, 4, c, h, w).transpose(0, 1, 3, 4, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_nvlabs_mit(tmp_path, kind):
    case = "mit_b0"
    state_dict = {key.removeprefix("backbone."): value for key, value in golden_values.state_dict(case).items()}
    head = {"head.weight": np.ones((1000, 256), np.float32), "head.bias": np.ones(1000, np.float32)}
    weights = converted(save_as(kind, state_dict | head, tmp_path), tmp_path)
    assert weights.origin.startswith("NVlabs MiT")
    for ours, name in zip(
        maps(weights, golden_input(case).transpose(0, 2, 3, 1)), ("c1", "c2", "c3", "c4"), strict=True
    ):
        agree(np.asarray(ours), golden_values.arrays(case)[name].transpose(0, 2, 3, 1), 1e-5)


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


def segformer_config(size="b0", **settings):
    return transformers.SegformerConfig(
        hidden_sizes=list(SIZES[size].channels), depths=list(SIZES[size].depths), num_attention_heads=list(HEADS),
        sr_ratios=list(REDUCTIONS), mlp_ratios=[4] * 4, num_labels=CLASSES, **settings,
    )  # fmt: skip


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


def test_huggingface_encoder(tmp_path):
    model = drawn(transformers.SegformerForImageClassification(segformer_config("b1")))
    model.save_pretrained(tmp_path / "model")
    weights = converted(tmp_path / "model", tmp_path)
    with torch.no_grad():
        images = torch.from_numpy(FRAMES.transpose(0, 3, 1, 2).copy())
        expected = model(images, output_hidden_states=True).hidden_states
    for ours, map_ in zip(maps(weights), expected, strict=True):
        agree(np.asarray(ours), nhwc(map_))


# --- PVTv2 and ConvNeXt ----------------------------------------------------------------------------------------------


def test_huggingface_pvt(tmp_path):
    config = transformers.PvtV2Config(out_features=["stage1", "stage2", "stage3", "stage4"], num_labels=CLASSES)
    model = drawn(transformers.PvtV2ForImageClassification(config))
    model.save_pretrained(tmp_path / "model")
    weights = converted(tmp_path / "model", tmp_path)
    backbone = transformers.PvtV2Backbone(config).eval()
    backbone.load_state_dict({k.removeprefix("pvt_v2."): v for k, v in model.pvt_v2.state_dict().items()})
    for ours, expected in zip(maps(weights), theirs(backbone).feature_maps, strict=True):
        agree(np.asarray(ours), nhwc(expected))


@pytest.mark.parametrize("form", ["backbone", "classifier"])
def test_huggingface_convnext(tmp_path, form):
    size = convnext.SIZES["convnext_tiny"]
    config = transformers.ConvNextConfig(
        hidden_sizes=list(size.channels), depths=list(size.depths), num_labels=CLASSES,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    backbone = drawn(transformers.ConvNextBackbone(config))
    model = backbone
    if form == "classifier":  # ImageNet's files have no norms of the stages: they start as they are when new.
        for norm in backbone.hidden_states_norms.values():
            torch.nn.init.ones_(norm.weight)
            torch.nn.init.zeros_(norm.bias)
        model = drawn(transformers.ConvNextForImageClassification(config))
        held = backbone.state_dict()
        model.convnext.load_state_dict({k: held.get(k, v) for k, v in model.convnext.state_dict().items()})
    model.save_pretrained(tmp_path / "model")
    weights = converted(tmp_path / "model", tmp_path)
    for ours, expected in zip(maps(weights), theirs(backbone).feature_maps, strict=True):
        agree(np.asarray(ours), nhwc(expected))


# --- MMSegmentation: its names and its arithmetic, written here from their description -------------------------------


class Attention(torch.nn.Module):
    def __init__(self, width, heads, reduction):
        super().__init__()
        self.attn = torch.nn.MultiheadAttention(width, heads, batch_first=True)
        if reduction > 1:
            self.sr = torch.nn.Conv2d(width, width, reduction, reduction)
            self.norm = torch.nn.LayerNorm(width, eps=1e-6)

    def forward(self, x, h, w):
        memory = x
        if hasattr(self, "sr"):
            memory = self.sr(x.transpose(1, 2).unflatten(2, (h, w))).flatten(2).transpose(1, 2)
            memory = self.norm(memory)
        return self.attn(x, memory, memory, need_weights=False)[0]


class Block(torch.nn.Module):
    def __init__(self, width, heads, reduction):
        super().__init__()
        self.norm1 = torch.nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads, reduction)
        self.norm2 = torch.nn.LayerNorm(width, eps=1e-6)
        self.ffn = torch.nn.Module()
        self.ffn.layers = torch.nn.Sequential(
            torch.nn.Conv2d(width, 4 * width, 1),
            torch.nn.Conv2d(4 * width, 4 * width, 3, padding=1, groups=4 * width),
            torch.nn.GELU(),
            torch.nn.Identity(),
            torch.nn.Conv2d(4 * width, width, 1),
        )

    def forward(self, x, h, w):
        x = x + self.attn(self.norm1(x), h, w)
        y = self.ffn.layers(self.norm2(x).transpose(1, 2).unflatten(2, (h, w)))
        return x + y.flatten(2).transpose(1, 2)


class Embedding(torch.nn.Module):
    def __init__(self, before, width, kernel, stride):
        super().__init__()
        self.projection = torch.nn.Conv2d(before, width, kernel, stride, kernel // 2)
        self.norm = torch.nn.LayerNorm(width, eps=1e-6)

    def forward(self, x):
        x = self.projection(x)
        return self.norm(x.flatten(2).transpose(1, 2)), *x.shape[2:]


class Encoder(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        widths = (3, *SIZES[size].channels)
        self.layers = torch.nn.ModuleList(
            torch.nn.ModuleList(
                [
                    Embedding(widths[i], widths[i + 1], *((7, 4) if i == 0 else (3, 2))),
                    torch.nn.ModuleList(Block(widths[i + 1], HEADS[i], REDUCTIONS[i]) for _ in range(depth)),
                    torch.nn.LayerNorm(widths[i + 1], eps=1e-6),
                ]
            )
            for i, depth in enumerate(SIZES[size].depths)
        )

    def forward(self, x):
        found = []
        for embedding, blocks, norm in self.layers:
            x, h, w = embedding(x)
            for block in blocks:
                x = block(x, h, w)
            x = norm(x).transpose(1, 2).unflatten(2, (h, w))
            found.append(x)
        return found


class ConvModule(torch.nn.Module):
    def __init__(self, before, width):
        super().__init__()
        self.conv = torch.nn.Conv2d(before, width, 1, bias=False)
        self.bn = torch.nn.BatchNorm2d(width)

    def forward(self, x):
        return torch.relu(self.bn(self.conv(x)))


class Head(torch.nn.Module):
    def __init__(self, size, classes):
        super().__init__()
        self.conv_seg = torch.nn.Conv2d(256, classes, 1)
        self.convs = torch.nn.ModuleList(ConvModule(channels, 256) for channels in SIZES[size].channels)
        self.fusion_conv = ConvModule(4 * 256, 256)

    def forward(self, found):
        size = found[0].shape[2:]
        enlarged = [
            torch.nn.functional.interpolate(conv(x), size=size, mode="bilinear", align_corners=False)
            for conv, x in zip(self.convs, found, strict=True)
        ]
        return self.conv_seg(self.fusion_conv(torch.cat(enlarged, dim=1)))


class Segmentor(torch.nn.Module):
    def __init__(self, size, classes):
        super().__init__()
        self.backbone, self.decode_head = Encoder(size), Head(size, classes)

    def forward(self, x):
        return self.decode_head(self.backbone(x))


def test_mmsegmentation_segformer(tmp_path):
    model = drawn(Segmentor("b0", CLASSES))
    state_dict = {"meta": {"mmengine_version": "0.10"}, "state_dict": model.state_dict(), "message_hub": {"a": 1}}
    torch.save(state_dict, tmp_path / "iter_160000.pth")
    weights = converted(tmp_path / "iter_160000.pth", tmp_path)
    found = weights.config.model
    assert (found.name, found.num_classes, found.projection) == ("segformer_b0", CLASSES, "normalised")
    agree(np.asarray(frame_logits(weights)), nhwc(theirs(model)))


def test_mmsegmentation_encoder(tmp_path):
    model = drawn(Encoder("b1"))
    torch.save(model.state_dict(), tmp_path / "mit_b1.pth")
    weights = converted(tmp_path / "mit_b1.pth", tmp_path)
    assert weights.origin == "MMSegmentation MiT"
    for ours, expected in zip(maps(weights), theirs(model), strict=True):
        agree(np.asarray(ours), nhwc(expected))


# --- and out again ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["torch", "safetensors"])
def test_torch_reads_what_is_written(tmp_path, to):
    """Every key that the release has, the live ones to the bit, the dead ones as zeros."""
    from cffm_jax.commands.convert import convert_command

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
