"""State dicts of torch's own wrappers, around a module with the released names of SegFormer-B0."""

import numpy as np
import pytest

import cffm_jax
from cffm_jax.weights.naming.match import key_map
from cffm_jax.weights.open import open_stored

from helpers.reference import torch

pytestmark = pytest.mark.reference

MODEL = cffm_jax.create_model("segformer_b0", 3)


def module():
    """A tree of modules whose state dict has the released keys."""
    root = torch.nn.Module()
    for key, (_, _, layout, shape) in key_map(MODEL).items():
        *path, leaf = key.split(".")
        place = root
        for name in path:
            if not hasattr(place, name):
                place.add_module(name, torch.nn.Module())
            place = getattr(place, name)
        place.register_parameter(leaf, torch.nn.Parameter(torch.ones(layout.save(np.empty(shape, bool)).shape)))
    return root


def compiled(net):
    """Nothing is compiled: it is never called. The usual backend warns when it is imported."""
    return torch.compile(net, backend="eager")


def in_place(net):
    """Parts of a model that are wrapped by themselves."""
    net.backbone = compiled(net.backbone)
    net.decode_head = torch.nn.DataParallel(net.decode_head)
    return net


WRAPS = {
    "compile": compiled,
    "data parallel": lambda net: torch.nn.DataParallel(net),
    "compile of data parallel": lambda net: compiled(torch.nn.DataParallel(net)),
    "data parallel of compile": lambda net: torch.nn.DataParallel(compiled(net)),
    "average": lambda net: torch.optim.swa_utils.AveragedModel(net),
    "average of compile": lambda net: torch.optim.swa_utils.AveragedModel(compiled(net)),
    "parts": in_place,
    "attribute": lambda net: torch.nn.ModuleDict({"segmentor": compiled(net), "loss": torch.nn.Linear(3, 3)}),
}


@pytest.mark.parametrize("wrap", WRAPS)
def test_it_is_found(tmp_path, wrap):
    state_dict = WRAPS[wrap](module()).state_dict()
    assert not set(key_map(MODEL)) <= set(state_dict)
    for value in (state_dict, {"state_dict": state_dict, "epoch": 3}):
        torch.save(value, tmp_path / "a.pth")
        with open_stored(tmp_path / "a.pth") as weights:
            assert not weights.problems and len(weights.leaves) == len(key_map(MODEL))
            beside = {"average": {"n_averaged"}, "attribute": {"loss.weight", "loss.bias"}}
            expected = beside.get(wrap.removesuffix(" of compile") if "average" in wrap else wrap, set())
            assert set(weights.ignored) - {"epoch"} == expected
