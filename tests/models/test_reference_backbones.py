"""The encoders beside MiT against Hugging Face's, in all four maps: pytest -m reference, with the reference extra."""

import re
from collections.abc import Callable

import jax
import numpy as np
import pytest

import cffm_jax

pytestmark = pytest.mark.reference

EPSILONS = (0.2, 0.05)
"""Far from any that are in use: which norm has which shows in the maps."""
STAGES = ["stage1", "stage2", "stage3", "stage4"]

PVTV2 = (
    (r"encoder\.layers\.(\d)\.patch_embedding\.proj", "patch_embed{after}.proj"),
    (r"encoder\.layers\.(\d)\.patch_embedding\.layer_norm", "patch_embed{after}.norm"),
    (r"encoder\.layers\.(\d)\.layer_norm", "norm{after}"),
    (r"encoder\.layers\.(\d)\.blocks\.(\d+)\.layer_norm_([12])", "block{after}.{1}.norm{2}"),
    (r"encoder\.layers\.(\d)\.blocks\.(\d+)\.attention\.query", "block{after}.{1}.attn.q"),
    (r"encoder\.layers\.(\d)\.blocks\.(\d+)\.attention\.(kv|proj)", "block{after}.{1}.attn.{2}"),
    (r"encoder\.layers\.(\d)\.blocks\.(\d+)\.attention\.spatial_reduction", "block{after}.{1}.attn.sr"),
    (r"encoder\.layers\.(\d)\.blocks\.(\d+)\.attention\.layer_norm", "block{after}.{1}.attn.norm"),
    (r"encoder\.layers\.(\d)\.blocks\.(\d+)\.mlp\.dense([12])", "block{after}.{1}.mlp.fc{2}"),
    (r"encoder\.layers\.(\d)\.blocks\.(\d+)\.mlp\.dwconv\.dwconv", "block{after}.{1}.mlp.dwconv.dwconv"),
)
CONVNEXT = (
    (r"embeddings\.patch_embeddings", "downsample_layers.0.0"),
    (r"embeddings\.layernorm", "downsample_layers.0.1"),
    (r"encoder\.stages\.(\d)\.downsampling_layer\.([01])", "downsample_layers.{0}.{1}"),
    (r"encoder\.stages\.(\d)\.layers\.(\d+)\.(dwconv|pwconv[12])", "stages.{0}.{1}.{2}"),
    (r"encoder\.stages\.(\d)\.layers\.(\d+)\.layernorm", "stages.{0}.{1}.norm"),
    (r"encoder\.stages\.(\d)\.layers\.(\d+)\.layer_scale_parameter", "stages.{0}.{1}.gamma"),
    (r"hidden_states_norms\.stage(\d)", "norm{before}"),
)


def canonical(stored: dict[str, np.ndarray], rules: tuple[tuple[str, str], ...]) -> dict[str, np.ndarray]:
    """A state dict of theirs under the authors' names; keys and values of an attention are one layer."""
    stored = dict(stored)
    for key in [key for key in stored if ".attention.key." in key]:
        merged = [stored.pop(key), stored.pop(key.replace(".key.", ".value."))]
        stored[key.replace(".key.", ".kv.")] = np.concatenate(merged)
    result = {}
    for key, array in stored.items():
        found = [(re.fullmatch(pattern + r"(\.(?:weight|bias))?", key), new) for pattern, new in rules]
        [(match, new)] = [(match, new) for match, new in found if match]
        *groups, leaf = match.groups(default="")
        stage = int(groups[0]) if groups else 0
        result["backbone." + new.format(*groups, before=stage - 1, after=stage + 1) + leaf] = array
    return result


def drawn(network) -> None:
    """Random weights in place: nothing is left at one or zero, and the maps neither vanish nor grow."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for name, value in network.state_dict().items():
        fan_in = value[0].numel() if value.ndim > 1 else 1
        noise = torch.randn(value.shape, generator=generator)
        if value.ndim > 1:
            value.copy_(noise / fan_in**0.5)
        elif "norm" in name or "layer_scale" in name or "downsampling_layer.0" in name:
            value.copy_(("weight" in name or "scale" in name) + 0.3 * noise)
        else:
            value.copy_(0.3 * noise)


def maps_of(network, name: str, rules: tuple[tuple[str, str], ...], is_reduction: Callable[[str], bool]) -> tuple:
    """(our maps, theirs) of the same frames and weights."""
    import torch

    norms = [(key, module) for key, module in network.named_modules() if "LayerNorm" in type(module).__name__]
    for key, module in norms:
        assert module.eps == 1e-6
        module.eps = EPSILONS[0 if is_reduction(key) else 1]
    drawn(network)
    frames = np.random.default_rng(1).standard_normal((2, 64, 96, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = network.eval()(torch.from_numpy(frames.transpose(0, 3, 1, 2).copy())).feature_maps
    model = cffm_jax.create_model(f"segformer_{name}", 19, norm_epsilons=EPSILONS)
    stored = canonical({key: value.numpy() for key, value in network.state_dict().items()}, rules)
    variables = cffm_jax.convert_state_dict(stored, model, part="encoder")
    quickly = {"xla_backend_optimization_level": 0}  # Compiling takes longer than running.
    ours = jax.jit(lambda v, x: model.apply(v, x, method="encode_stages"), compiler_options=quickly)(variables, frames)
    return ours, [x.numpy().transpose(0, 2, 3, 1) for x in theirs]


def assert_same(ours: tuple, theirs: list[np.ndarray]) -> None:
    assert len(ours) == len(theirs) == 4
    for number, (x, expected) in enumerate(zip(ours, theirs, strict=True), 1):
        assert x.shape == expected.shape and 0.3 < expected.std() < 3
        np.testing.assert_allclose(x, expected, rtol=0, atol=2e-5, err_msg=f"stage {number}")


def test_pvtv2_gives_the_maps_of_huggingface():
    transformers = pytest.importorskip("transformers")
    network = transformers.PvtV2Backbone(transformers.PvtV2Config(out_features=STAGES))  # B0's sizes by default.
    assert_same(*maps_of(network, "pvtv2_b0", PVTV2, lambda key: "patch_embedding" in key or "attention" in key))


def test_convnext_gives_the_maps_of_huggingface():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_sizes": [96, 192, 384, 768], "depths": [3, 3, 9, 3]}
    network = transformers.ConvNextBackbone(transformers.ConvNextConfig(**sizes, out_features=STAGES))
    beside = re.compile(r"embeddings\.layernorm|.*downsampling_layer\.0")
    assert_same(*maps_of(network, "convnext_tiny", CONVNEXT, lambda key: bool(beside.fullmatch(key))))
