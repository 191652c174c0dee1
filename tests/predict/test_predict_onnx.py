"""predict.py of a file of ONNX: the masks of the network that it was made of, and what such a file cannot do.

A stand-in takes the engine's place where none need be installed; the engines run under the mark of ONNX.
"""

import dataclasses
import json
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from cffm_jax.commands.predict import predict_command
from cffm_jax.config import ModelConfig, PrototypeConfig
from cffm_jax.data.layouts.classes import read_classes
from cffm_jax.errors import InputError
from cffm_jax.export.onnx import export_onnx
from cffm_jax.inference import onnx_engines, onnx_stream
from cffm_jax.inference.engine import Engine
from cffm_jax.inference.load import Weights
from cffm_jax.inference.onnx_stream import OnnxStream, open_onnx
from cffm_jax.models.normalise import normalise
from cffm_jax.predict.predictor import Predictor
from cffm_jax.predict.request import Request
from cffm_jax.runtime.command_line import run_command

from helpers.films import drifting, film, frames_of
from helpers.streams import CLASSES, CONFIG, made

SIZE, LENGTH = (64, 96), 13
"""What the network sees: nothing is resized, which OpenCV does in other digits than a file."""
CONFIGURED = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, frame_size=SIZE))
ENGINES = pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])


def metadata(**changed):
    """What a file says of itself, as words."""
    about = {
        "model": dataclasses.asdict(ModelConfig("cffm_b0", 3)),
        "channels": dataclasses.asdict(CONFIG.data.frame_channels),
        "input_size": SIZE,
        "offsets": [5, 3, 1],
        "classes": ["sky", "road", "car"],
        "colours": [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
        **changed,
    }
    return {"licence": "as nobody knows", **{key: json.dumps(value) for key, value in about.items()}}


class StandIn:
    """Of an engine: the mask is the red channel modulo 3, the state counts frames."""

    inputs = {
        "clock": np.zeros((), np.int32),
        "ages": np.zeros(1, np.int32),
        "keys_0_far": np.zeros((6, 1, 2), np.float32),
        "frames": np.zeros((1, *SIZE, 3), np.uint8),
    }
    outputs = ("next_clock", "next_ages", "next_keys_0_far", "masks")
    metadata = metadata()

    def __init__(self, path):
        self.clocks = []

    def runner(self):
        def run(inputs, wanted):
            self.clocks.append(int(inputs["clock"]))
            results = {f"next_{name}": x + 1 for name, x in inputs.items()} | {"masks": inputs["frames"][..., 0] % 3}
            return [results[name] for name in wanted]

        return run


@pytest.fixture
def engine(monkeypatch):
    """The stand-in, whose attributes a test may change."""
    kind = type("Kind", (StandIn,), {})
    monkeypatch.setitem(onnx_engines.ENGINES, "onnxruntime", kind)
    return kind


@pytest.fixture
def file(tmp_path):
    (tmp_path / "model.onnx").touch()
    return tmp_path / "model.onnx"


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Without loss."""
    folder = tmp_path_factory.mktemp("films")
    return film(folder / "a.mkv", LENGTH, size=SIZE, codec="ffv1", pixels="bgr0", pictures=drifting(LENGTH, SIZE))


def loaded(name, config=CONFIGURED):
    return Weights(*made(name), config, "ours", "Apache-2.0", *read_classes("nowhere", CLASSES))


def predicted(video, file, out, *argv):
    """Masks by the real command."""
    argv = [str(video), "--checkpoint", str(file), "--output", str(out), *argv]
    assert run_command(predict_command, argv) == 0
    return np.stack([np.asarray(Image.open(path)) for path in sorted((out / "masks").iterdir())])


# --- what needs no engine


def test_classes_colours_and_licence_are_the_files(video, file, engine, tmp_path):
    masks = predicted(video, file, tmp_path / "out", "--classes", "road", "sky")
    red = np.stack(frames_of(video)[0])[..., 0] % 3
    np.testing.assert_array_equal(masks, np.where(red == 2, 255, red))
    about = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert about["classes"] == {"0": "sky", "1": "road"} and about["colours"]["1"] == [4, 5, 6]
    assert about["licence"] == "as nobody knows" and about["model"] == "cffm_b0" and about["offsets"] == [5, 3, 1]
    assert about["input_size"] == [*SIZE] and about["memory"] is None
    assert (tmp_path / "out" / "overlay.mp4").stat().st_size > 500
    assert about["asked"]["engine"] == "onnxruntime"  # The default's name asks for the same.
    assert Request(checkpoint="a.onnx").asked == Request(checkpoint="a.onnx", engine="onnxruntime").asked
    assert Request(checkpoint="run").asked["engine"] is None


def test_the_state_goes_from_step_to_step(file, engine):
    stream = open_onnx(file, "onnxruntime")
    frames = np.zeros((4, *SIZE, 3), np.uint8)
    for _ in range(2):  # Each stream begins anew.
        assert len(list(stream.predictions(frames))) == 4
    assert stream.engine.clocks == [0, 1, 2, 3] * 2


def test_what_a_file_cannot_do(video, file, engine, tmp_path, refused):
    argv = [video, "--checkpoint", file, "--output", tmp_path / "out"]
    for option, said in {
        ("--scores",): "--scores: is given, and a file of ONNX gives masks alone",
        ("--logits",): "--logits: is given, and a file of ONNX gives masks alone",
        ("--frame-size", "0", "0"): "--frame-size: is given, and a file of ONNX resizes frames as its run did",
        ("--tile-size", "64", "96"): "--tile-size: is given, and a file of ONNX segments whole frames",
    }.items():
        refused(predict_command, [*argv, *option], said, "name the run itself with --checkpoint")
    argv[2] = "run"
    refused(predict_command, [*argv, "--engine", "openvino"], "--engine: is openvino, which runs files of ONNX (.onnx")
    argv[2] = "model.xml"
    refused(predict_command, [*argv, "--engine", "onnxruntime"], "--engine: is onnxruntime, and an .xml is of OpenVINO")


def test_references_are_where_the_file_has_them(video, file, engine, tmp_path, refused):
    argv = [video, "--checkpoint", file, "--output", tmp_path / "out", "--every", "3"]
    said = "--every, --reference-seconds: ask for references 2, 1, 1 frames back, and "
    refused(predict_command, argv, f"{said}{file} has them 5, 3, 1 frames back; leave them out", progress=True)
    argv[-2:] = ["--reference-seconds", "0.4", "0.2", "0.12"]
    refused(
        predict_command, argv, "ask for references 6, 3, 2 frames back", "export again with --offsets", progress=True
    )
    with pytest.raises(InputError, match=said):  # Of many videos it ends the run.
        Predictor(Request(checkpoint=str(file), every=3))(video, tmp_path / "out")
    engine.inputs = {name: x for name, x in engine.inputs.items() if not name.startswith("keys")}
    assert len(predicted(video, file, tmp_path / "out", "--every", "3")) == 5  # It reads none.


def test_frames_of_another_size(file, engine, tmp_path, refused):
    other = film(tmp_path / "b.mkv", 2, size=(48, 64))
    said = f"{file}: takes frames of 64x96 (height x width), and these are 48x64; export again with --size 48 64"
    refused(predict_command, [other, "--checkpoint", file, "--output", tmp_path / "out"], said, progress=True)


@pytest.mark.parametrize(
    ("attribute", "value", "said"),
    [
        ("metadata", {}, "is not of this version's convert.py --to onnx (KeyError('model'))"),
        ("metadata", metadata(channels=3), "is not of this version's convert.py"),
        ("metadata", metadata(model={"name": "cffm_b0", "depth": 3}), "use the version of cffm_jax that wrote it"),
        ("metadata", metadata(colours=[[300, 2, 3]]), "is not of this version's convert.py"),
        ("outputs", StandIn.outputs[1:], "(ValueError('no output next_clock')); export its model again"),
        ("inputs", {**StandIn.inputs, "prototypes": np.zeros((1, 4, 8))}, "convert.py --to onnx"),
        ("inputs", {"x": np.zeros(3)}, "is not of this version's convert.py"),
        ("inputs", {**StandIn.inputs, "frames": np.zeros((4, *SIZE, 3), np.uint8)}, "export again without --streams"),
    ],
)
def test_other_files(attribute, value, said, video, file, engine, tmp_path, refused):
    setattr(engine, attribute, value)
    refused(predict_command, [video, "--checkpoint", file, "--output", tmp_path / "out"], f"{file}: ", said)


def test_no_file_and_no_engine(video, file, tmp_path, refused, monkeypatch):
    argv = [video, "--output", tmp_path / "out", "--checkpoint"]
    refused(predict_command, [*argv, tmp_path / "none.onnx"], f"{tmp_path / 'none.onnx'}: no such file")
    for package, extra in {"onnxruntime": "onnx", "openvino": "openvino"}.items():
        monkeypatch.setitem(sys.modules, package, None)
        said = f"{file}: needs {package}, which is not installed; install it: make install-{extra}, or pip install"
        refused(predict_command, [*argv, file, "--engine", package], said)


class Network:
    """A network in the place of an engine: it is given prototypes, and tells its features."""

    def __init__(self, weights):
        self.weights, offsets = weights, weights.config.data.offsets
        self.engine = Engine(weights.model, weights.model.rows("video")[:1], offsets, memory=max(offsets))
        leaves, self.tree = jax.tree.flatten(self.engine.start(SIZE))
        self.names = [f"state_{i}" for i in range(len(leaves))]
        self.inputs = dict(zip(self.names, map(np.asarray, leaves)))
        self.inputs["prototypes"] = np.zeros((1, weights.config.prototypes.count, weights.model.width), np.float32)
        self.inputs["frames"] = np.zeros((1, *SIZE, 3), np.uint8)
        self.step = jax.jit(self._step)

    def _step(self, leaves, frames, prototypes):
        state, variables = jax.tree.unflatten(self.tree, leaves), self.weights.variables
        state, segmented = self.engine.segment(variables, state, frames[:, None], prototypes, size=SIZE)
        features = self.weights.model.bind(variables).encode(normalise(frames)).coarse
        return [*jax.tree.leaves(state), *(x[:, 0] for x in segmented.masks.values()), features]

    def runner(self):
        def run(inputs, wanted):
            results = self.step([inputs[name] for name in self.names], inputs["frames"], inputs["prototypes"])
            names = [*(f"next_{name}" for name in self.names), "masks", "features"]
            results = dict(zip(names, map(np.asarray, results), strict=True))
            return [results[name] for name in wanted]

        return run


@pytest.mark.long
def test_prototypes_are_those_of_the_frames_so_far():
    """A file that is given them and tells features gives the masks of the stream that has them as its state."""
    frames = np.stack(drifting(7, SIZE))

    def masks(interval, as_file):
        config = dataclasses.replace(CONFIGURED, prototypes=dataclasses.replace(CONFIG.prototypes, interval=interval))
        weights = loaded("cffmpp_b0", config)
        if not as_file:
            return np.stack(list(weights.stream(frames)))
        offsets, about = config.data.offsets, (weights.licence, weights.names, weights.colours)
        stream = OnnxStream(Path("x"), Network(weights), config, offsets, SIZE, SIZE, *about)
        return np.stack([each.mask for each in stream.predictions(frames)])

    expected = masks(3, False)
    assert len(np.unique(expected)) > 1 and (masks(3, True) != expected).mean() < 1e-3
    assert (masks(10, True) != expected).mean() > 1e-2  # They count.


def test_prototypes_are_clustered_on_the_cpu(monkeypatch):
    """Whichever device is JAX's default: a GPU's memory would be reserved by each process."""
    places = []

    class Clustering(StandIn):
        inputs = {"frames": StandIn.inputs["frames"], "prototypes": np.zeros((1, 4, 8), np.float32)}

        def runner(self):
            known = {"features": np.ones((1, 8, 12, 8), np.float32), "masks": np.zeros((1, *SIZE), np.uint8)}
            return lambda inputs, wanted: [known[name] for name in wanted]

    def noted(state, *_):
        places.extend(x.device for x in (*jax.tree.leaves(state), jax.numpy.zeros(())))
        return state

    monkeypatch.setattr(onnx_stream, "_with_frame", noted)
    monkeypatch.setattr(onnx_stream, "is_finite", lambda state: noted(state) is state)
    config = dataclasses.replace(CONFIGURED, prototypes=PrototypeConfig(count=4))
    stream = OnnxStream(Path("x"), Clustering(Path("x")), config, (5, 3, 1), SIZE, SIZE, "", (), np.zeros((256, 3)))
    with jax.default_device(jax.devices()[1]):
        assert len(list(stream.predictions(np.zeros((2, *SIZE, 3), np.uint8)))) == 2
    assert set(places) == {jax.devices("cpu")[0]}


def test_no_other_type_in_place_of_bfloat16(tmp_path, monkeypatch):
    core = types.SimpleNamespace(get_property=lambda *_: ["FP32", "INT8"])
    monkeypatch.setattr(onnx_engines, "required", lambda *_: types.SimpleNamespace(Core=lambda: core))
    (tmp_path / "model.onnx").touch()
    with pytest.raises(InputError, match="--engine: openvino-bf16 needs a processor with bfloat16"):
        open_onnx(tmp_path / "model.onnx", "openvino-bf16")


# --- the engines


@pytest.fixture(scope="module", params=["cffm_b0", "cffmpp_b0"])
def exported(request, tmp_path_factory):
    """A network, and its file."""
    network, path = loaded(request.param), tmp_path_factory.mktemp("onnx") / "stream.onnx"
    export_onnx(network, path, SIZE)
    return network, path


@pytest.mark.onnx
@ENGINES
def test_masks_are_the_networks(engine, exported, video, tmp_path):
    """With prototypes those of the frames so far, clustered of the features that the file gives."""
    network, path = exported
    masks = predicted(video, path, tmp_path / "out", "--engine", engine)
    expected = np.stack(list(network.stream(frames_of(video)[0])))
    assert len(np.unique(expected)) > 1 and (masks != expected).mean() < 1e-3


@pytest.mark.onnx
def test_masks_in_bfloat16_where_the_processor_has_it(exported, video, tmp_path):
    network, path = exported
    try:
        open_onnx(path, "openvino-bf16")
    except InputError as error:
        pytest.skip(str(error))
    masks = predicted(video, path, tmp_path / "out", "--engine", "openvino-bf16")
    expected = np.stack(list(network.stream(frames_of(video)[0])))
    assert 0 < (masks != expected).mean() < 0.1  # Rounding moves prototypes too.


@pytest.mark.onnx
def test_a_file_that_openvino_wrote_again(exported, video, tmp_path):
    """As one in 8 bits is; it says of itself what the file of ONNX does."""
    masks = predicted(video, exported[1], tmp_path / "out", "--engine", "openvino")
    import openvino  # Not before the engine's own import, which keeps it from reporting.

    openvino.save_model(openvino.Core().read_model(exported[1]), tmp_path / "again.xml", compress_to_fp16=False)
    assert np.array_equal(predicted(video, tmp_path / "again.xml", tmp_path / "again"), masks)
    about = (json.loads((tmp_path / name / "prediction.json").read_text()) for name in ("again", "out"))
    assert len({(*each["classes"], each["licence"]) for each in about}) == 1
    (tmp_path / "again.bin").unlink()
    with pytest.raises(InputError, match=r"again.xml: OpenVINO does not take it \((?!.*\.cpp).*\); give it the .bin"):
        open_onnx(tmp_path / "again.xml", "openvino")


@pytest.mark.onnx
@ENGINES
def test_what_is_no_file_of_onnx(engine, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"hello" * 10)
    said = r"model.onnx: \w+ does not take it \((?!.*\.cpp).*\); write it again with convert.py"
    with pytest.raises(InputError, match=said):
        open_onnx(tmp_path / "model.onnx", engine)
