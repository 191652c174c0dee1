"""A stream's step as ONNX gives in onnxruntime what it gives in JAX."""

import dataclasses
import functools
import json
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from cffm_jax import create_model
from cffm_jax.commands import convert as commands
from cffm_jax.data.layouts.classes import read_classes
from cffm_jax.errors import InputError
from cffm_jax.export import onnx, stablehlo
from cffm_jax.inference import load as weights
from cffm_jax.inference import streaming
from cffm_jax.models.methods.image_head import HEADS
from cffm_jax.models.variables import flatten

from helpers.streams import CLASSES, CONFIG, made

SIZE, STREAMS, LENGTH, AGAIN = (64, 90), 2, 13, 7
"""The model sees 64x96: masks are resized on the way out, frames on the way in. Stream 1 starts anew at step 7."""


@pytest.fixture(scope="module")
def config():
    return dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, frame_size=(64, 96)))


def loaded(name, config, **settings):
    return weights.Weights(*made(name, **settings), config, "ours", "Apache-2.0", *read_classes("nowhere", CLASSES))


@pytest.fixture(scope="module")
def network(config):
    return loaded("cffm_b0", config)


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(0).integers(0, 256, (LENGTH, STREAMS, *SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def file(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "stream.onnx"
    onnx.export_onnx(network, path, SIZE, streams=STREAMS)
    return path


ALONE = """
import sys
import types
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"cffm_jax", "jax", "flax", "jax2onnx", "onnx", "torch", "tensorflow"}:
            raise ImportError(name + " must not be needed")
sys.meta_path.insert(0, Refuse())
import numpy as np
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
types = {"tensor(float)": np.float32, "tensor(int32)": np.int32}
state = {i.name: np.zeros(i.shape, types[i.type]) for i in session.get_inputs() if i.name != "frames"}
masks = []
for t, frame in enumerate(np.load(sys.argv[2])):
    if t == int(sys.argv[3]):
        state["ages"][1] = 0
    *after, mask = session.run(None, {**state, "frames": frame})
    state = dict(zip(state, after))
    masks.append(mask)
np.savez(sys.argv[4], masks=np.stack(masks), **state)
"""


@pytest.mark.onnx
@pytest.mark.parametrize("name", ["cffm_b0", "tcb_ocr_mem_r18"])
def test_with_onnxruntime_alone_the_masks_and_the_state_are_the_same(name, config, frames, request, tmp_path):
    if name == "cffm_b0":
        network, file = map(request.getfixturevalue, ("network", "file"))
    else:
        network, file = loaded(name, config), tmp_path / "stream.onnx"
        onnx.export_onnx(network, file, SIZE, streams=STREAMS)
    np.save(tmp_path / "frames.npy", frames)
    argv = [sys.executable, "-c", ALONE, str(file), str(tmp_path / "frames.npy"), str(AGAIN), str(tmp_path / "out.npz")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    segmenter = streaming.StreamSegmenter(network.model, config, SIZE, STREAMS)
    step = jax.jit(functools.partial(stablehlo.step, segmenter, flatten(network.variables)))
    state, expected = tuple(jax.tree.leaves(segmenter.start())), []
    for t, frame in enumerate(frames):
        if t == AGAIN:
            state = (state[0], state[1].at[1].set(0), *state[2:])
        state, masks = step(state, frame)
        expected.append(np.asarray(masks))
    expected = np.stack(expected)
    assert len(np.unique(expected)) > 1
    with np.load(tmp_path / "out.npz") as found:
        assert found["masks"].dtype == np.uint8 and (found["masks"] != expected).mean() < 1e-3
        for name, leaf in zip(onnx.state_names(segmenter), jax.tree.leaves(state), strict=True):
            np.testing.assert_allclose(found[name], leaf, rtol=0, atol=1e-4 * max(1, np.abs(leaf).max()), err_msg=name)


@pytest.mark.onnx
def test_what_the_file_says_of_itself(file):
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert about["origin"] == "ours" and about["licence"] == "Apache-2.0"
    assert json.loads(about["offsets"]) == [5, 3, 1] and len(json.loads(about["colours"])) == CLASSES
    assert json.loads(about["classes"]) == [f"class {i}" for i in range(CLASSES)]
    assert session.get_inputs()[-1].shape == [STREAMS, *SIZE, 3]
    assert [each.name for each in session.get_outputs()] == [
        *(f"next_{each.name}" for each in session.get_inputs()[:-1]), "masks"
    ]  # fmt: skip


@pytest.mark.onnx
def test_a_model_without_a_ring(config, tmp_path):
    """What is written was compared with the model: it has a state of two numbers."""
    onnx.export_onnx(loaded("segformer_b0", config), tmp_path / "x.onnx", SIZE)
    assert (tmp_path / "x.onnx").stat().st_size > 1e6


@pytest.mark.onnx
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((f"{head}_r18", {"form": form}) for head, kind in HEADS.items() for form in kind.forms),
        ("fcn_mobilenetv2", {"depths": ()}),
        ("tcb_ppm_r18", {}),
        ("stppm_b0", {}),
    ],
)
def test_other_methods(name, settings, config, frames, tmp_path):
    """What is written was compared with the model; masks of several classes make that a comparison."""
    import onnxruntime

    onnx.export_onnx(loaded(name, config, **settings), tmp_path / "x.onnx", SIZE)
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx", providers=["CPUExecutionProvider"])
    types = {"tensor(float)": np.float32, "tensor(int32)": np.int32}
    state = {each.name: np.zeros(each.shape, types[each.type]) for each in session.get_inputs()[:-1]}
    *_, masks = session.run(None, {**state, "frames": frames[0, :1]})
    assert len(np.unique(masks)) > 1


def test_how_near_a_step_is(tmp_path):
    """Against sessions of the very step: moved by a little, by too much, by nan, in the state and in the masks."""

    def step(clock, ages, state, frames):
        return clock + 1, ages + 1, 2 * state, frames[..., 0]

    specs = [jax.ShapeDtypeStruct(shape, kind) for shape, kind in (((), "i4"), ((1,), "i4"), ((3, 5), "f4"))]
    specs.append(jax.ShapeDtypeStruct((1, 40, 50, 3), "u1"))

    class Session:
        def __init__(self, state=0.0, pixels=0):
            self.state, self.pixels = state, pixels

        def get_inputs(self):
            return [types.SimpleNamespace(name=name) for name in ("clock", "ages", "x", "frames")]

        def run(self, _, inputs):
            clock, ages, state, masks = map(np.array, step(*inputs.values()))
            masks.reshape(-1)[: self.pixels] += 1
            return [clock, ages, state + self.state, masks]

    for session, said in {Session(): "0 of 2000 pixels", Session(pixels=1): "1 of 2000 pixels"}.items():
        assert said in onnx._compare(tmp_path, session, step, specs)
    for session in (Session(pixels=2), Session(state=0.1), Session(state=np.nan)):
        with pytest.raises(InputError, match="computes something else"):
            onnx._compare(tmp_path, session, step, specs)


@pytest.mark.onnx
def test_another_result_is_not_written(network, tmp_path, monkeypatch):
    """As if the converter had lost a weight."""

    class Lossy:
        def __init__(self, session):
            self.session = session

        def get_inputs(self):
            return self.session.get_inputs()

        def run(self, names, inputs):
            *state, masks = self.session.run(names, inputs)
            return [*state, np.roll(masks, 1, -1)]

    honest = onnx._session
    monkeypatch.setattr(onnx, "_session", lambda *args: Lossy(honest(*args)))
    with pytest.raises(InputError, match="something else"):
        onnx.export_onnx(network, tmp_path / "x.onnx", SIZE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("cffmpp_b0", "has prototypes.*jax-export"),
        ("netwarp_psp_r18", "reads optical flow.*jax-export"),
        ("dff_r18", "has key frames.*jax-export"),
        ("cc_r18", "has key frames.*jax-export"),
    ],
)
def test_models_that_do_not_convert_are_refused(name, problem, config, tmp_path):
    refused = weights.Weights(create_model(name, CLASSES), {}, config, "", "")
    with pytest.raises(InputError, match=f"x.onnx: {name} {problem}"):
        onnx.export_onnx(refused, tmp_path / "x.onnx", SIZE)


def test_misuse_of_the_command(tmp_path, refused, monkeypatch):
    (tmp_path / "there.onnx").touch()
    refused(commands.convert_command, ["x", tmp_path / "there.onnx", "--to", "onnx"], "is there already")
    refused(commands.convert_command, ["x", tmp_path / "new.onnx", "--to", "onnx", "--size", 0, 5], "--size")
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    refused(commands.convert_command, ["x", tmp_path / "new.onnx", "--to", "onnx"], "make install-onnx")
