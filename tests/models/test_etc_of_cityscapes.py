"""ETC on PSPNet-18 in the form of its own code: sizes, names, files."""

import jax
import numpy as np
import pytest

import cffm_jax
from cffm_jax.models.variables import variable_shapes
from cffm_jax.weights.naming.match import convert_state_dict, export_state_dict

from helpers.drawn import lively

SMALL = {"flow": "raft_small", "flow_updates": 1, "receptive": (7,), "pooling": (7,)}


def model(classes=19):
    return cffm_jax.create_model("etc_psp_r18", classes, form="etc", **SMALL)


def test_parameters():
    """ "What they compute", ETC ResNet-18: 13.80, with the auxiliary head 14.40."""
    params = variable_shapes(model())["params"]
    sizes = {part: sum(leaf.size for leaf in jax.tree.leaves(tree)) for part, tree in params.items()}
    whole = sum(size for part, size in sizes.items() if part != "flow")
    assert round(whole / 1e6, 2) == 14.40
    assert round((whole - sizes["auxiliary"] - sizes["auxiliary_classifier"]) / 1e6, 2) == 13.80


def test_forms():
    assert model().public_name == "etc_psp_r18" and model().backbone == "r18_plain"
    assert cffm_jax.create_model("etc_psp_r18", 3, form="vspw").backbone == "r18_vspw"
    for name in ("etc_ocr_r18", "pspnet_r18"):
        with pytest.raises(ValueError, match="has no such form; give form"):
            cffm_jax.create_model(name, 3, form="etc")


def test_a_file_of_the_code_and_of_flow():
    """The encoder's names have no prefix, and the stem's are its own; the flow's weights lie below one."""
    variables = lively(model())
    released = export_state_dict(variables, model())
    stem = {"backbone.conv1.": "layer0.0.", "backbone.bn1.": "layer0.1."}
    theirs = {}
    for key, array in released.items():
        first = next((old for old in stem if key.startswith(old)), "")
        theirs[stem[first] + key.removeprefix(first) if first else key.removeprefix("backbone.")] = array
    assert {"layer0.0.weight", "layer4.1.bn2.running_var", "ppm.features.3.2.bias", "cls.4.bias"} <= {*theirs}
    jax.tree.map(np.testing.assert_array_equal, convert_state_dict(theirs, model()), variables)
