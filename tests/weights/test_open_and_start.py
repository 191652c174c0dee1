"""Weights of any kind: what is loaded, what starts afresh, what is ignored, what is refused."""

import dataclasses
import functools
import json
import shutil

import flax
import jax
import numpy as np
import pytest
import safetensors.numpy

import cffm_jax
from cffm_jax.commands.convert import convert_command
from cffm_jax.commands.eval import eval_command
from cffm_jax.config import Config, InitConfig, ModelConfig
from cffm_jax.data.class_names import synthetic_names
from cffm_jax.data.layouts.video import Video
from cffm_jax.data.layouts.vspw import CODING
from cffm_jax.errors import InputError
from cffm_jax.inference.video_prototypes import ImportedPrototypes
from cffm_jax.models.create import build_model
from cffm_jax.models.variables import variable_shapes
from cffm_jax.runtime.command_line import run_command
from cffm_jax.settings import load_config
from cffm_jax.training.setup import initial_weights
from cffm_jax.weights.files.read import open_weights
from cffm_jax.weights.open import open_stored
from cffm_jax.weights.start import start_from

from helpers import golden_values
from helpers.runs import CONFIG, DEPTHS, ROOT, TINY, WIDTH, finished, leaves
from helpers.weight_files import Call, Global, TorchFile, torch_file

CLIP = np.zeros((1, 4, 32, 32, 3), np.float32)


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """Folder of files in the released layout: the authors' CFFM-B0, its SegFormer and its encoder."""
    folder = tmp_path_factory.mktemp("released")
    state_dict = golden_values.state_dict("cffm_b0_96x160")
    parts = ("decode_head.decoder_focal.", "decode_head.linear_pred2.")
    save = safetensors.numpy.save_file
    save(state_dict, folder / "cffm.safetensors")
    save({k: v for k, v in state_dict.items() if not k.startswith(parts)}, folder / "segformer.safetensors")
    encoder = {k.removeprefix("backbone."): v for k, v in state_dict.items() if k.startswith("backbone.")}
    save(encoder | {"head.weight": np.ones((1000, 256), np.float32)}, folder / "mit.safetensors")
    return folder


def drawn(model):
    """Variables without an initialisation to compile."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), variable_shapes(model))


def converted(*argv):
    assert run_command(convert_command, list(map(str, argv))) == 0
    return argv[1]


def assert_same(found, expected):
    found, expected = leaves(found), leaves(expected)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


# --- load


def test_load_of_a_foreign_file(released):
    weights = cffm_jax.load(released / "cffm.safetensors")
    assert weights.config == Config(model=ModelConfig("cffm_b0", 124))
    assert weights.model == cffm_jax.create_model("cffm_b0", 124)
    assert_same(
        weights.variables, cffm_jax.convert_state_dict(golden_values.state_dict("cffm_b0_96x160"), weights.model)
    )
    assert weights.origin == "CFFM of its authors" and "non-commercial" in weights.licence


def test_load_of_an_encoder(released):
    weights = cffm_jax.load(str(released / "mit.safetensors"))
    whole = cffm_jax.load(released / "cffm.safetensors")
    assert_same(weights.variables["params"], whole.variables["params"]["encoder"])
    maps = jax.eval_shape(weights.model.apply, weights.variables, CLIP[0])
    expected = jax.eval_shape(functools.partial(whole.model.apply, method="encode_stages"), whole.variables, CLIP[0])
    assert len(maps) == 4 and maps == expected


def test_load_of_a_run(trained):
    weights = cffm_jax.load(trained[0])
    assert weights.config.model.name == "cffm_b0" and weights.config.model.num_classes == 8
    assert weights.origin == "cffm_jax run, step 4" and weights.licence == "yours: trained from random weights"
    assert weights.names == synthetic_names(8)  # Of its dataset's classes.json, stored with the checkpoint.
    assert_same(weights.variables, cffm_jax.load(trained[0] / "checkpoints").variables)


def test_our_file_is_the_run_to_the_bit(trained, tmp_path):
    path = converted(trained[0], tmp_path / "model.safetensors")
    again, run = cffm_jax.load(path), cffm_jax.load(trained[0])
    assert_same(again.variables, run.variables)
    assert again.config == run.config and again.origin == run.origin and again.model == run.model
    assert again.names == run.names and again.licence == run.licence


@pytest.mark.parametrize("to", ["torch", "safetensors"])
def test_the_released_layout_and_back_is_the_same_to_the_bit(trained, tmp_path, to):
    run = cffm_jax.load(trained[0])
    path = converted(trained[0], tmp_path / "weights", "--to", to)
    again = cffm_jax.load(path)
    assert_same(again.variables, run.variables)
    assert again.config.model == run.config.model and again.model == run.model and again.origin == run.origin
    assert again.names == run.names and again.licence == run.licence
    with open_weights(path) as file:
        assert {"decode_head.conv_seg.weight", "decode_head.linear_fuse.bn.num_batches_tracked"} <= set(file.arrays)


def test_half_precision_becomes_single(released, tmp_path):
    state_dict = golden_values.state_dict("cffm_b0_96x160")
    np.savez(tmp_path / "half.npz", **{key: value.astype(np.float16) for key, value in state_dict.items()})
    found = leaves(cffm_jax.load(tmp_path / "half.npz").variables)
    for name, array in leaves(cffm_jax.load(released / "cffm.safetensors").variables).items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], array.astype(np.float16).astype(np.float32))


@pytest.mark.long
def test_norms_that_imagenet_files_lack_start_afresh(tmp_path):
    model = cffm_jax.create_model("segformer_convnext_tiny", 3)
    variables = drawn(model)
    exported = cffm_jax.export_state_dict(variables, model)
    bare = {k.removeprefix("backbone."): v for k, v in exported.items() if k.startswith("backbone.")}
    bare = {k: v for k, v in bare.items() if not k.startswith("norm")} | {"norm.weight": np.ones(768, np.float32)}
    safetensors.numpy.save_file(bare, tmp_path / "convnext.safetensors")
    for path in (tmp_path / "convnext.safetensors", converted(tmp_path / "convnext.safetensors", tmp_path / "ours")):
        found = leaves(cffm_jax.load(path).variables["params"])
        expected = leaves(variables["params"]["encoder"])
        assert found.keys() == expected.keys()
        for name, array in found.items():
            fresh = "['norm']" in name and "block" not in name
            np.testing.assert_array_equal(array, (1.0 if "scale" in name else 0.0) if fresh else expected[name])
    with open_stored(path) as held:
        _, report = start_from(held, cffm_jax.create_model("segformer_convnext_tiny", 3), jax.random.key(0))
    assert "norms of the encoder's stages (not in such files)" in str(report)


# --- what training starts from


def started(path, name="cffm_b0", classes=124, key=0, **options):
    model = cffm_jax.create_model(name, classes)
    with open_stored(path) as held:
        variables, report = start_from(held, model, jax.random.key(key), **options)
    return model, variables, report


def split(variables):
    """Leaves by part."""
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    return lambda *tops: {path: leaf for path, leaf in flat.items() if path.split("/")[1].rpartition("_")[0] in tops
                          or path.split("/")[1] in tops}  # fmt: skip


def test_a_segformer_gives_all_but_the_mining(released):
    model, variables, report = started(released / "segformer.safetensors")
    whole = cffm_jax.load(released / "cffm.safetensors").variables
    assert jax.tree.structure(variables) == jax.tree.structure(whole)
    tops = ("encoder", "decoder", "frame_classifier")
    assert_same(split(variables)(*tops), split(whole)(*tops))
    for path, leaf in split(variables)("local", "clip_classifier").items():
        assert not np.array_equal(leaf, split(whole)("local", "clip_classifier")[path]), path
    assert set(report.loaded) == {"encoder", "decoder", "frame classifier"}
    assert report.fresh == {"local blocks": "not there", "clip classifier": "not there"}
    assert "decode_head.conv_seg.weight" in report.dead and not report.ignored
    said = str(report)
    assert "(NVlabs SegFormer)" in said and "random: local blocks (not there)" in said
    assert "dead: decode_head." in said
    assert "non-commercial" in said and "\n" not in said


def test_classifiers_of_other_classes_start_afresh(released):
    _, variables, report = started(released / "cffm.safetensors", classes=19)
    assert report.fresh == {part: "124 classes there, 19 here" for part in ("frame classifier", "clip classifier")}
    whole = cffm_jax.load(released / "cffm.safetensors").variables
    assert_same(split(variables)("encoder", "decoder", "local"), split(whole)("encoder", "decoder", "local"))
    assert variables["params"]["clip_classifier"]["kernel"].shape == (512, 19)


def test_a_part_that_the_model_lacks_is_ignored(released):
    _, variables, report = started(released / "cffm.safetensors", "segformer_b0")
    assert "the local blocks" in report.ignored and "the clip classifier" in report.ignored and not report.fresh
    assert set(variables["params"]) == {"encoder", "decoder", "frame_classifier"}


def test_an_encoder_alone(released):
    _, variables, report = started(released / "mit.safetensors")
    assert report.loaded == ("encoder",) and report.dead == ("head.weight",)
    _, other, report = started(released / "cffm.safetensors", only=("encoder",))
    assert_same(variables, other)
    assert report.fresh["decoder"] == "as asked"


@pytest.mark.parametrize("file", ["segformer", "mit"])
def test_a_part_that_must_not_be_random(released, file):
    with pytest.raises(InputError, match="lacks the .* that cffm_b0 needs"):
        started(released / f"{file}.safetensors", may_be_fresh=())


def test_a_decoder_of_another_width_starts_afresh(tmp_path):
    wide = cffm_jax.create_model("segformer_b0", 124, width=96)
    exported = cffm_jax.export_state_dict(drawn(wide), wide)
    safetensors.numpy.save_file(exported, tmp_path / "wide.safetensors")
    assert cffm_jax.load(tmp_path / "wide.safetensors").config.model.width == 96
    _, _, report = started(tmp_path / "wide.safetensors")
    assert report.loaded == ("encoder",) and report.fresh["decoder"] == "96 channels wide there, 256 here"


def test_training_starts_from_other_classes(trained, tmp_path):
    """A run of 8 classes as the start of one of 7: the log will say what starts afresh."""
    config = load_config(CONFIG)
    config = dataclasses.replace(
        config,
        workdir=str(tmp_path / "run"),
        model=dataclasses.replace(config.model, num_classes=7, depths=DEPTHS, width=WIDTH),
        init=InitConfig(model=str(trained[0])),
    )
    variables, said, _ = initial_weights(build_model(config.model), config, jax.random.key(0))
    assert "random: frame classifier (8 classes there, 7 here), clip classifier (8 classes there, 7 here)" in said
    assert variables["params"]["frame_classifier"]["kernel"].shape == (WIDTH, 7)


# --- the commands


@pytest.mark.long
def test_evaluation_of_a_file(trained, data, tmp_path, capfd):
    path = converted(trained[0], tmp_path / "model.safetensors")
    assert run_command(eval_command, ["--checkpoint", str(path)]) == 0
    assert "step 4" in capfd.readouterr().out
    result = json.loads((tmp_path / "model.safetensors.eval.json").read_text())
    assert run_command(eval_command, ["--checkpoint", str(trained[0]), "--output", str(tmp_path / "run.json")]) == 0
    run = json.loads((tmp_path / "run.json").read_text())
    assert result["rows"] == run["rows"] and run["step"] == 4
    # In the released layout, which knows the model but nothing of the data.
    path = converted(trained[0], tmp_path / "released.pth", "--to", "torch")
    more = ["--config", CONFIG, "--data.root", str(data), *TINY]
    assert run_command(eval_command, ["--checkpoint", str(path), *more]) == 0
    assert json.loads((tmp_path / "released.pth.eval.json").read_text())["rows"] == run["rows"]


@pytest.mark.long
def test_inspection(released, trained, capfd):
    """What there is in each, and nothing is written."""
    before = sorted(released.iterdir())
    said = {}
    for path in (*before, trained[0]):
        assert run_command(convert_command, ["--inspect", str(path)]) == 0
        said[path.stem], err = capfd.readouterr()
        assert err == ""
    assert sorted(released.iterdir()) == before
    assert "CFFM of its authors" in said["cffm"] and "cffm_b0" in said["cffm"] and "124" in said["cffm"]
    assert "4,666," in said["cffm"] or "4,6" in said["cffm"]
    assert "an encoder alone (b0)" in said["mit"] and "head.weight" in said["mit"]
    assert "conv_seg" in said["segformer"] and "non-commercial" in said["segformer"]
    assert "checkpoint of a run" in said[trained[0].stem] and "step 4" in said[trained[0].stem]
    assert "settings" not in said["cffm"] and "depths 1 1 1 1" in said[trained[0].stem]


def test_inspection_names_what_is_missing(released, tmp_path, capfd):
    state_dict = golden_values.state_dict("cffm_b0_96x160")
    del state_dict["backbone.norm3.bias"]
    safetensors.numpy.save_file(state_dict | {"more": np.ones(3)}, tmp_path / "part.safetensors")
    assert run_command(convert_command, ["--inspect", str(tmp_path / "part.safetensors")]) == 0
    out = capfd.readouterr().out
    assert "NO: missing backbone.norm3.bias, left over more" in out


def test_inspection_looks_at_the_values(tmp_path, capfd):
    state_dict = golden_values.state_dict("cffm_b0_96x160")
    state_dict["backbone.norm3.bias"] = np.full_like(state_dict["backbone.norm3.bias"], np.nan)
    safetensors.numpy.save_file(state_dict, tmp_path / "nan.safetensors")
    assert run_command(convert_command, ["--inspect", str(tmp_path / "nan.safetensors")]) == 0
    out = capfd.readouterr().out
    assert "NO: holds values that are not finite (NaN, infinity) in params/encoder/" in out


def test_what_is_written_says_where_it_is_from(released, tmp_path):
    import hashlib

    path = converted(released / "mit.safetensors", tmp_path / "mit_b0.safetensors")
    with open_weights(path) as file:
        metadata = file.metadata
    history = json.loads(metadata["provenance"])
    assert metadata["format"] == "cffm_jax" and metadata["part"] == "encoder"
    assert history["source"] == "mit.safetensors" and history["dead"] == ["head.weight"]
    assert history["sha256"] == hashlib.sha256((released / "mit.safetensors").read_bytes()).hexdigest()
    assert "non-commercial" in history["licence"] and history["origin"].startswith("NVlabs MiT")
    assert history["keys"]["params/encoder/stage1/embed/kernel"] == ["patch_embed1.proj.weight"]


def test_weights_that_the_release_has_no_place_for(tmp_path, refused):
    model = cffm_jax.create_model("cffm_b0", 3, receptive=(20, 6), pooling=(4, 2))
    held = dataclasses.asdict(Config(model=ModelConfig("cffm_b0", 3, receptive=(20, 6), pooling=(4, 2))))
    flat = flax.traverse_util.flatten_dict(drawn(model), sep="/")
    history = {"origin": "a test", "licence": "", "keys": {}}
    metadata = {"format": "cffm_jax", "part": "all", "config": json.dumps(held), "provenance": json.dumps(history)}
    path = tmp_path / "two.safetensors"
    safetensors.numpy.save_file({k: np.asarray(v) for k, v in flat.items()}, path, metadata)
    assert_same(cffm_jax.load(path).variables, flax.traverse_util.unflatten_dict(flat, sep="/"))
    refused(convert_command, [path, tmp_path / "out.pth", "--to", "torch"], path, "no counterpart in the release")


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_prototypes_of_the_authors(tmp_path, capfd, form):
    """cluster_centers become one file, which --prototypes.imported takes as it takes the original."""
    rng = np.random.default_rng(0)
    centres = {f"video_{i}": rng.standard_normal((100, 256)).astype(np.float32) for i in range(3)}
    source = tmp_path / "cluster_centers"
    for video, array in centres.items():
        (source / video).mkdir(parents=True)
        file = TorchFile()
        file.write(source / video / "centers.pt", file.tensor(array))
    if form == "zip":
        source = shutil.make_archive(tmp_path / "archive", "zip", tmp_path, "cluster_centers")
    path = converted(source, tmp_path / "prototypes.safetensors")
    assert "prototypes of 3 videos" in capfd.readouterr().out
    for given in (source, path):
        imported = ImportedPrototypes(str(given), 256)
        for video, array in centres.items():
            np.testing.assert_array_equal(imported.of(Video(video, ("a.jpg",), (), CODING)), array)
    assert run_command(convert_command, ["--inspect", str(source)]) == 0
    assert "3 of [100, 256]" in capfd.readouterr().out


# --- faults of the commands


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], ["command line", "names no file"]),
        (["a.pth"], ["command line", "--inspect or a file to write"]),
        (["a.pth", "b", "--inspect"], ["command line", "--inspect or a file to write"]),
        (["nowhere.pth", "b"], ["nowhere.pth"]),
        (["a.pth", "b", "--to", "keras"], ["keras"]),
        (["a.pth", "b", "--unsafe"], ["--unsafe", "is no option"]),
    ],
)
def test_command_lines_at_fault(tmp_path, monkeypatch, refused, argv, said):
    monkeypatch.chdir(tmp_path)
    refused(convert_command, argv, *said)


def test_an_output_that_is_there(released, tmp_path, refused):
    (tmp_path / "model.safetensors").write_text("precious")
    refused(convert_command, [released / "mit.safetensors", tmp_path / "model.safetensors"], "is there already")
    refused(convert_command, [released / "mit.safetensors", released / "mit.safetensors"], "is there already")
    assert (tmp_path / "model.safetensors").read_text() == "precious"


def test_an_encoder_cannot_be_evaluated(released, tmp_path, refused):
    refused(eval_command, ["--checkpoint", released / "mit.safetensors"], "holds an encoder alone")


def test_a_file_of_another_model_is_not_evaluated(released, data, tmp_path, refused):
    argv = ["--checkpoint", released / "cffm.safetensors", "--config", CONFIG, "--data.root", data]
    refused(eval_command, argv, "model.num_classes 124")


@pytest.mark.parametrize("key", ["config", "provenance", "part"])
def test_our_file_with_a_damaged_description(released, tmp_path, refused, key):
    path = converted(released / "mit.safetensors", tmp_path / "ours.safetensors")
    with open_weights(path) as file:
        metadata, arrays = file.metadata, {name: array.load() for name, array in file.arrays.items()}
    for value in ("{", "[1]", "null"):
        safetensors.numpy.save_file(arrays, path, metadata | {key: value})
        refused(convert_command, [path, tmp_path / "again.safetensors"], path)


def test_our_file_with_other_arrays(trained, tmp_path, refused):
    path = converted(trained[0], tmp_path / "ours.safetensors")
    with open_weights(path) as file:
        metadata, arrays = file.metadata, {name: array.load() for name, array in file.arrays.items()}
    name = "params/encoder/stage1/norm/scale"
    for changed, said in (
        ({k: v for k, v in arrays.items() if k != name}, f"missing {name}"),
        (arrays | {"params/more": np.ones(3, np.float32)}, "left over params/more"),
        (arrays | {name: np.ones(3, np.float32)}, f"{name} is [3], not [32]"),
        (arrays | {name: np.full(32, np.nan, np.float32)}, f"not finite (NaN, infinity) in {name}"),
    ):
        safetensors.numpy.save_file(changed, path, metadata)
        refused(convert_command, [path, tmp_path / "again.safetensors"], path, said)
        refused(eval_command, ["--checkpoint", path], path, said)


def test_a_damaged_run(trained, tmp_path, refused):
    workdir = shutil.copytree(trained[0], tmp_path / "run")
    for file in (workdir / "checkpoints").rglob("*"):
        if file.is_file() and "variables" in str(file):
            file.write_bytes(b"")
    refused(convert_command, [workdir, tmp_path / "out.safetensors"], workdir)


def test_the_script_itself(released, tmp_path):
    status, out, err = finished("convert.py", released / "mit.safetensors", tmp_path / "mit.safetensors")
    assert status == 0, err
    assert "written" in out and "non-commercial" in out and (ROOT / "convert.py").is_file()
    status, out, err = finished("convert.py", tmp_path / "none.pth", tmp_path / "b")
    assert status == 2 and "Traceback" not in err and len(err.splitlines()) == 1


# --- files at fault, through the command (all that the readers refuse: test_hostile_files.py, test_damaged_files.py)


def truncated(path, source, share):
    path.write_bytes(source.read_bytes()[: int(source.stat().st_size * share)])


def hostile(path, _):
    """A checkpoint whose notes would make a file."""
    run = Call(Global("os", "system"), (f"touch {path.parent / 'sentinel'}",))
    torch_file(
        path, {"patch_embed1.proj.weight": np.ones(3, np.float32)}, lambda weights: {"meta": run, "state_dict": weights}
    )


FAULTS = {
    "empty": (lambda path, _: path.write_bytes(b""), "empty"),
    "text": (lambda path, _: path.write_text("weights\n" * 100), ""),
    "a folder": (lambda path, _: path.mkdir(), ""),
    "missing": (lambda path, _: None, "no such file"),
    "hostile": (hostile, "it names os.system, which can run programs"),
    **{f"cut at {share}": (functools.partial(truncated, share=share), "") for share in (0.001, 0.1, 0.5, 0.999)},
}


@pytest.mark.parametrize("to", ["cffm_jax", "torch"])
@pytest.mark.parametrize("fault", FAULTS)
def test_files_at_fault(released, tmp_path, refused, fault, to):
    make, said = FAULTS[fault]
    path = tmp_path / "weights.pth"
    make(path, released / "cffm.safetensors")
    refused(convert_command, [path, tmp_path / "out", "--to", to], path, said)
    refused(convert_command, ["--inspect", path], path, said)
    assert not (tmp_path / "sentinel").exists()
