"""Names and colours of classes: those that the weights state, never guessed by their number."""

import json
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import cffm_jax
from cffm_jax.checkpoints.state import TrainState
from cffm_jax.checkpoints.store import Checkpoints
from cffm_jax.commands.convert import convert_command
from cffm_jax.config import Config, DataConfig, ModelConfig
from cffm_jax.data.class_names import CITYSCAPES, CITYSCAPES_COLOURS, VSPW
from cffm_jax.data.layouts.classes import Classes
from cffm_jax.drawing.palette import palette
from cffm_jax.evaluation.checkpoint import _classes
from cffm_jax.export.stablehlo import description
from cffm_jax.runtime.command_line import run_command
from cffm_jax.weights import summary
from cffm_jax.weights.class_names import ClassNames, of_dataset, of_metadata, of_stored
from cffm_jax.weights.naming.match import key_map
from cffm_jax.weights.open import open_stored

from helpers.weight_files import torch_file

OWN = tuple(f"part {k}" for k in range(19))
SHADES = tuple((k, 2 * k, 255 - k) for k in range(19))
NUMBERS = tuple(f"class {k}" for k in range(19))


def released(classes):
    model = cffm_jax.create_model("segformer_b0", classes)
    keys = key_map(model).items()
    return {key: np.zeros(layout.save(np.empty(shape, bool)).shape, np.float16) for key, (_, _, layout, shape) in keys}


@pytest.fixture(scope="module")
def nineteen():
    return released(19)


def pretrained(folder, arrays, **config):
    """As ``save_pretrained`` writes it."""
    folder.mkdir(exist_ok=True)
    safetensors.numpy.save_file(arrays, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"model_type": "segformer", **config}))
    return folder


def classes_of(path):
    with open_stored(path) as weights:
        return weights.classes


# --- others' files


def test_id2label(nineteen, tmp_path):
    folder = pretrained(tmp_path / "model", nineteen, id2label={str(k): name for k, name in enumerate(OWN)})
    for path in (folder, folder / "model.safetensors"):
        weights = cffm_jax.load(path)
        assert weights.names == OWN
        np.testing.assert_array_equal(weights.colours, palette(19))
    with open_stored(folder) as weights:
        assert "class names   part 0, part 1" in summary.description(weights)
        assert "(id2label of config.json)" in summary.description(weights)
    (folder / "config.json").write_text("{")
    with open_stored(folder) as weights:
        assert "none: called by their numbers (config.json cannot be read)" in summary.description(weights)


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        ({str(k): f"LABEL_{k}" for k in range(19)}, ""),
        ({str(k): f"thing {k}" for k in range(150)}, "names 150 classes, the model has 19"),
        ({str(k + 1): name for k, name in enumerate(OWN)}, "does not number its classes 0, 1"),
        ({str(k): k for k in range(19)}, "is no list of names"),
        (["a"] * 19, ""),
    ],
)
def test_labels_that_are_no_names_of_these_classes(nineteen, tmp_path, labels, why):
    folder = pretrained(tmp_path / "model", nineteen, id2label=labels)
    assert cffm_jax.load(folder).names == NUMBERS
    classes = classes_of(folder)
    assert not classes.names and why in classes.source


META = {
    "mmengine": {"dataset_meta": {"classes": OWN, "palette": [list(shade) for shade in SHADES], "label_map": None}},
    "MMSegmentation": {"CLASSES": list(OWN), "PALETTE": [list(shade) for shade in SHADES], "config": "model = dict()"},
}


@pytest.mark.parametrize("of", META)
def test_metadata_of_checkpoints(nineteen, tmp_path, of):
    path = torch_file(tmp_path / "a.pth", nineteen, lambda weights: {"meta": META[of], "state_dict": weights})
    weights = cffm_jax.load(path)
    assert weights.names == OWN
    assert weights.colours[:19].tolist() == [list(shade) for shade in SHADES] and not weights.colours[19:].any()


def test_colours_that_do_not_fit_are_said():
    for palette_ in ("random", [[1, 2, 3]] * 18, [[1, 2, 300]] * 19, [[1, 2]] * 19):
        classes = of_metadata({"CLASSES": OWN, "PALETTE": palette_}, 19)
        assert classes.names == OWN and not classes.colours and classes.source == "CLASSES, whose colours do not fit"


@pytest.mark.long
@pytest.mark.parametrize("count", [19, 124])
def test_a_number_of_classes_names_none(tmp_path, monkeypatch, count):
    """Neither Cityscapes nor VSPW, nor what lies in ``data`` where the command was started."""
    safetensors.numpy.save_file(released(count), tmp_path / "a.safetensors")
    root = tmp_path / Config().data.root
    root.mkdir(parents=True)
    (root / "classes.txt").write_text("".join(f"other {k}\n" for k in range(count)))
    monkeypatch.chdir(tmp_path)
    for path in ("a.safetensors", "ours.safetensors", "released.pth"):
        weights = cffm_jax.load(path)
        assert weights.names == tuple(f"class {k}" for k in range(count))
        if path == "a.safetensors":
            assert run_command(convert_command, [path, "ours.safetensors"]) == 0
            assert run_command(convert_command, [path, "released.pth", "--to", "torch"]) == 0


# --- what is written, and read again


def test_our_own_file_beside_a_foreign_config(nineteen, tmp_path):
    """``model.safetensors`` is a usual name: what the file itself says comes first."""
    folder = pretrained(tmp_path / "model", nineteen, id2label={str(k): name for k, name in enumerate(OWN)})
    ours = tmp_path / "ours" / "model.safetensors"
    ours.parent.mkdir()
    assert run_command(convert_command, [str(folder), str(ours)]) == 0
    (ours.parent / "config.json").write_text(json.dumps({"id2label": {str(k): f"other {k}" for k in range(19)}}))
    for path in (ours, ours.parent):
        assert cffm_jax.load(path).names == OWN


@pytest.mark.parametrize("to", ["cffm_jax", "torch", "safetensors"])
def test_conversions_keep_them(nineteen, tmp_path, to):
    path = torch_file(tmp_path / "a.pth", nineteen, lambda w: {"meta": META["mmengine"], "state_dict": w})
    assert run_command(convert_command, [str(path), str(tmp_path / "b"), "--to", to]) == 0
    weights = cffm_jax.load(tmp_path / "b")
    assert weights.names == OWN and weights.colours[:19].tolist() == [list(shade) for shade in SHADES]


def test_exports_have_them():
    classes = ClassNames(OWN, SHADES).classes(19)
    config = Config(model=ModelConfig("segformer_b0", 19))
    weights = SimpleNamespace(names=classes.names, colours=classes.colours, origin="", licence="")
    model = SimpleNamespace(reads_prototypes=False)
    segmenter = SimpleNamespace(config=config, streams=1, size=(2, 2), input_size=(32, 32), model=model)
    about = description(weights, segmenter)
    assert about["classes"] == list(OWN) and about["colours"] == [list(shade) for shade in SHADES]


def run_of(workdir, config, about):
    """A checkpoint whose weights are not looked at."""
    state = TrainState(jnp.int32(3), {"w": jnp.ones(3)}, {}, (), jnp.int32(0), jnp.int32(0))
    with Checkpoints(workdir, create=True) as checkpoints:
        checkpoints.save(state, config, about)
    return workdir


def test_runs_keep_them(tmp_path):
    config = Config(model=ModelConfig("segformer_b0", 19), data=DataConfig(layout="cityscapes"))
    stored = json.loads(json.dumps(of_dataset(ClassNames(OWN, SHADES).classes(19)).stored()))
    classes = classes_of(run_of(tmp_path / "run", config, {"classes": stored, "licence": "x"}))
    assert classes.names == OWN and classes.colours == SHADES
    # Its dataset named none: the layout's are not guessed.
    assert not classes_of(run_of(tmp_path / "none", config, {"classes": None, "licence": "x"})).names
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert checkpoints.damage(3) == "" and checkpoints.config(3) == config
        assert checkpoints.about(3) == {"classes": stored, "licence": "x"}


@pytest.mark.parametrize(
    ("layout", "count", "names"),
    [("vspw", 124, VSPW), ("cityscapes", 19, CITYSCAPES), ("vspw", 19, ()), ("cityscapes", 124, ()),
     ("folder", 19, ()), ("folder", 124, ()), ("records", 124, ())],
)  # fmt: skip
def test_runs_of_earlier_versions_say_on_what_layout_they_were_trained(tmp_path, monkeypatch, layout, count, names):
    data = DataConfig(layout=layout, root="own")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "classes.txt").write_text("other\n" * count)
    monkeypatch.chdir(tmp_path)
    config = Config(model=ModelConfig("segformer_b0", count), data=data)
    classes = classes_of(run_of(tmp_path / "run", config, None))
    assert classes.names == names
    assert classes.colours == (CITYSCAPES_COLOURS if names == CITYSCAPES else classes.colours)


def test_damaged_ones_are_not_taken():
    for stored in (None, [], {"names": 3}, {"names": ["a"]}, {"colours": []}):
        assert not of_stored(stored, 2, "the file").names


# --- evaluation


def test_the_datasets_own_names_come_first_and_a_contradiction_is_said(tmp_path):
    config = Config(model=ModelConfig("segformer_b0", 3), data=DataConfig(str(tmp_path), layout="folder"))
    weights = SimpleNamespace(classes=ClassNames(("road", "Traffic light", "sky"), SHADES[:3]))
    found = _classes(config, weights)
    assert found.names == ("road", "Traffic light", "sky") and found.colours[:3].tolist() == list(map(list, SHADES[:3]))
    assert weights.classes.contradiction(found.names) == ""
    (tmp_path / "classes.txt").write_text("road\ntraffic_light\nsea\n")
    found = _classes(config, weights)
    assert found.names == ("road", "traffic_light", "sea")
    note = weights.classes.contradiction(found.names)
    assert note == "the weights and the dataset call class 2 'sky' and 'sea': the dataset's names are used"
    found = _classes(config, SimpleNamespace(classes=ClassNames()))
    assert found.names == ("road", "traffic_light", "sea") and ClassNames().contradiction(found.names) == ""
    (tmp_path / "classes.txt").unlink()
    assert _classes(config, SimpleNamespace(classes=ClassNames())).names == ("class 0", "class 1", "class 2")


def test_classes_are_what_they_were_after_storing():
    classes = Classes(OWN, palette(19))
    again = of_stored(json.loads(json.dumps(of_dataset(classes).stored())), 19, "x").classes(19)
    assert again.names == OWN
    np.testing.assert_array_equal(again.colours, classes.colours)
