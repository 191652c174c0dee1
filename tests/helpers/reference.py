"""Networks of other libraries beside ours: their weights drawn, written to files, converted; their outputs compared.

Nothing here needs torch until it is called.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy

import cffm_jax
from cffm_jax.commands.convert import convert_command
from cffm_jax.models.encoders.mit import HEADS, REDUCTIONS, SIZES
from cffm_jax.runtime.command_line import run_command

from helpers import golden_values


class Lazily:
    """A module that is imported where it is first used, or the test skipped: other runs only collect these tests."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(pytest.importorskip(self._name), attribute)


torch, transformers = Lazily("torch"), Lazily("transformers")

CLASSES = 7
FRAMES = np.random.default_rng(0).standard_normal((2, 64, 96, 3)).astype(np.float32)
KINDS = ("pth", "pth legacy", "safetensors", "npz")
"""Of files, for ``save_as``."""
EPSILONS = (0.2, 0.05)
"""Far from any that are in use: which norm has which shows in the maps."""
STAGES = ["stage1", "stage2", "stage3", "stage4"]


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


def golden_input(case, name="frames"):
    entry = golden_values.manifest()[case]
    return golden_values.draw_input(name, entry[name], entry["seed"])


def segformer_config(size="b0", **settings):
    return transformers.SegformerConfig(
        hidden_sizes=list(SIZES[size].channels), depths=list(SIZES[size].depths), num_attention_heads=list(HEADS),
        sr_ratios=list(REDUCTIONS), mlp_ratios=[4] * 4, num_labels=CLASSES, **settings,
    )  # fmt: skip


# --- all four maps, under epsilons that are in no use ---


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


def draw_in_place(network) -> None:
    """Random weights in place: nothing is left at one or zero, and the maps neither vanish nor grow."""
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
    norms = [(key, module) for key, module in network.named_modules() if "LayerNorm" in type(module).__name__]
    for key, module in norms:
        assert module.eps == 1e-6
        module.eps = EPSILONS[0 if is_reduction(key) else 1]
    draw_in_place(network)
    frames = np.random.default_rng(1).standard_normal((2, 64, 96, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = network.eval()(torch.from_numpy(frames.transpose(0, 3, 1, 2).copy())).feature_maps
    model = cffm_jax.create_model(f"segformer_{name}", 19, norm_epsilons=EPSILONS)
    stored = canonical({key: value.numpy() for key, value in network.state_dict().items()}, rules)
    variables = cffm_jax.convert_state_dict(stored, model, part="encoder")
    quickly = {"xla_backend_optimization_level": 0}  # Compiling takes longer than running.
    ours = jax.jit(lambda v, x: model.apply(v, x, method="encode_stages"), compiler_options=quickly)(variables, frames)
    return ours, [x.numpy().transpose(0, 2, 3, 1) for x in theirs]


def assert_same_maps(ours: tuple, theirs: list[np.ndarray]) -> None:
    assert len(ours) == len(theirs) == 4
    for number, (x, expected) in enumerate(zip(ours, theirs, strict=True), 1):
        assert x.shape == expected.shape and 0.3 < expected.std() < 3
        np.testing.assert_allclose(x, expected, rtol=0, atol=2e-5, err_msg=f"stage {number}")
