"""Folders for the Hugging Face hub: read here, by name from a small hub, and by transformers."""

import dataclasses
import json
import re

import numpy as np
import pytest
import yaml

import cffm_jax
from cffm_jax.commands.convert import convert_command
from cffm_jax.config import SETTINGS, Config, ModelConfig
from cffm_jax.models.create import build_model
from cffm_jax.models.variables import flatten
from cffm_jax.rules import with_changes
from cffm_jax.runtime.command_line import run_command
from cffm_jax.weights.class_names import ClassNames
from cffm_jax.weights.described import StoredWeights
from cffm_jax.weights.files.stored_array import StoredArray
from cffm_jax.weights.hub_folder import write_hub_folder
from cffm_jax.weights.open import RANDOM, open_stored

from helpers import hub as loopback
from helpers.drawn import lively
from helpers.runs import leaves

NAMES = ("wall", "the sky", "sea")
NOTICE = "inherited from x.pth: non-commercial: see LICENSE"


def stored(licence=NOTICE, **settings):
    """The weights of a small network, as a run would leave them."""
    config = Config(model=ModelConfig(**{"num_classes": 3, "depths": (1, 1, 1, 1), "width": 64, **settings}))
    arrays = flatten(lively(build_model(config.model)))
    described = {path: StoredArray(array.shape, array.dtype, array.copy) for path, array in arrays.items()}
    classes = ClassNames(NAMES, ((1, 2, 3),) * 3, "the run")
    return StoredWeights("runs/x", "a run", "all", config, described, licence=licence, classes=classes, step=7)


def head_of(card):
    return yaml.safe_load(card.split("---\n")[1])


@pytest.mark.parametrize("name", ["segformer_b0", pytest.param("cffm_b0", marks=pytest.mark.long)])
def test_a_folder_is_read_by_name(tmp_path, monkeypatch, name):
    figures = tmp_path / "eval.json"
    rows = {"CFFM": {"miou": 0.5, "vc8": None}}
    figures.write_text(json.dumps({"step": 7, "changed": {"data.root": "/home/me"}, "rows": rows}))
    weights, folder = stored(name=name), tmp_path / "out"
    said = write_hub_folder(weights, folder, figures)
    assert said.startswith("for cffm_jax and transformers" if name == "segformer_b0" else "for cffm_jax alone")
    assert {path.name for path in folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    config, card = json.loads((folder / "config.json").read_text()), (folder / "README.md").read_text()
    assert config["id2label"] == {"0": "wall", "1": "the sky", "2": "sea"}
    assert head_of(card)["license"] == "other" and NOTICE in card and "/home/me" not in card
    assert "| CFFM | 50.00 |" in card and "other settings than the weights': data.root" in card
    with loopback.running(monkeypatch, tmp_path / "cache") as hub:
        hub.add("owner/name", **{path.name: path.read_bytes() for path in folder.iterdir()})
        found = cffm_jax.load("hf:owner/name")
    assert found.config.model == weights.config.model
    assert found.names == NAMES and found.colours[1].tolist() == [1, 2, 3]
    assert found.licence == f"{NOTICE}; its model card states other (inherited)"
    expected = leaves(weights.load())
    for path, array in leaves(found.variables).items():
        np.testing.assert_array_equal(array, expected[path], err_msg=path)


@pytest.mark.parametrize("name", ["segformer_b0", "segformer_pvtv2_b0"])
def test_no_path_of_this_machine_is_published(tmp_path, name):
    weights, home = stored(name=name), "/home/anna/secret"
    paths = [key for key, rule in SETTINGS.items() if rule.path or rule.place]
    config = with_changes(weights.config, [*((key, f"{home}/{key}") for key in paths), ("train.steps", 77)])
    config = with_changes(config, [("prototypes.checkpoint", "hf:owner/name")])
    chain = "inherited from {0}1: inherited from hf:a/b:c/d.bin@e: that of {0}mit.pth, from which it was trained"
    weights = dataclasses.replace(weights, source=f"{home}/2", config=config, licence=chain.format(f"{home}/"))
    assert len(paths) > 5 and write_hub_folder(weights, tmp_path / "out", tmp_path / "none")
    for file in (tmp_path / "out").iterdir():
        assert not re.search(b"anna|secret", file.read_bytes()), file
    with open_stored(tmp_path / "out") as found:
        assert found.licence == chain.format("")
        if name != "segformer_b0":  # Of our own format, which has the config.
            kept = {"train.steps": 77, "prototypes.checkpoint": "hf:owner/name", "model": weights.config.model}
            assert found.config == with_changes(Config(), kept.items())


def test_figures_of_another_step_and_a_licence_of_ones_own(tmp_path):
    figures = tmp_path / "eval.json"
    figures.write_text('{"step": 6, "rows": {}}')
    said = write_hub_folder(stored(RANDOM, name="segformer_b0"), tmp_path / "out", figures)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license" not in head_of(card) and "states no licence: choose one" in said and "## Figures" not in card


def test_nothing_is_left_of_what_fails(refused, tmp_path):
    weights = tmp_path / "model"
    write_hub_folder(stored(name="segformer_b0"), weights, tmp_path / "none")
    (tmp_path / "model.eval.json").write_text("[]")
    refused(convert_command, [weights, tmp_path / "new", "--to", "hub"], "model.eval.json: holds no figures of eval.py")
    refused(convert_command, [weights, weights, "--to", "hub"], f"{weights}: is there already")


@pytest.mark.reference
def test_transformers_reads_the_folder(tmp_path):
    from helpers.reference import FRAMES, agree, frame_logits, nhwc, theirs, transformers

    settings = {"name": "segformer_b0", "depths": (1, 2, 1, 1), "norm_epsilons": (1e-5, 1e-5)}
    write_hub_folder(stored(**settings), tmp_path / "a", tmp_path)
    assert run_command(convert_command, [str(tmp_path / "a"), str(tmp_path / "b"), "--to", "hub"]) == 0
    for folder in (tmp_path / "a", tmp_path / "b"):
        model, report = transformers.SegformerForSemanticSegmentation.from_pretrained(folder, output_loading_info=True)
        assert not any(report.values()), report
        assert tuple(model.config.id2label.values()) == NAMES
        agree(np.asarray(frame_logits(cffm_jax.load(folder), FRAMES)), nhwc(theirs(model.eval()).logits), 3e-4)
        with open_stored(folder) as weights:
            assert weights.licence == NOTICE and not weights.problems
