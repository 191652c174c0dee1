"""A stream's step as ONNX gives in onnxruntime what it gives in JAX."""

import collections
import dataclasses
import functools
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cffm_jax.commands import convert as commands
from cffm_jax.data.layouts.classes import read_classes
from cffm_jax.errors import InputError
from cffm_jax.export import onnx, stablehlo
from cffm_jax.inference import load as weights
from cffm_jax.inference import onnx_engines, streaming
from cffm_jax.models.methods.image_head import HEADS
from cffm_jax.models.normalise import normalise
from cffm_jax.models.variables import flatten

from helpers.streams import CLASSES, CONFIG, made

SIZE, STREAMS, LENGTH, AGAIN = (64, 90), 2, 13, 7
"""The model sees 64x96: masks are resized on the way out, frames on the way in. Stream 1 starts anew at step 7."""


FLOW = {"flow": "raft_small", "flow_updates": 2}


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
        if name.split(".")[0] in {"cffm_jax", "jax", "flax", "onnx", "torch", "tensorflow"}:
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
def test_nodes_are_named_by_the_modules_that_they_are_of(network, file):
    import onnx as format_of

    model = format_of.load(file)
    places = {tuple(node.name.split("/")[:-1]) for node in model.graph.node}
    modules = {tuple(name.split("/")[1:-1]) for name, array in flatten(network.variables).items() if array.ndim > 1}
    # The head's fusion reads its projections' parameters itself.
    assert modules - places == {("decoder", f"project{i}") for i in range(1, 5)} and ("decoder",) in places


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
        ("cffm_convnext_tiny", {}),
        ("cffm_pvtv2_b0", {}),
        ("tcb_ppm_r18", {}),
        ("stppm_b0", {}),
        ("cc_r18", {}),
        ("netwarp_psp_r18", FLOW),
        *((f"{name}_r18", FLOW) for name in ("dff", "accel", "grfp", "dvsn")),
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


@pytest.mark.onnx
def test_prototypes_are_given(config, frames, tmp_path):
    """The features do not depend on them, and are those that prototypes are clustered of; the masks do."""
    import onnxruntime

    network = loaded("cffmpp_b0", config)
    onnx.export_onnx(network, tmp_path / "x.onnx", SIZE)
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx", providers=["CPUExecutionProvider"])
    count, width = config.prototypes.count, network.model.width
    assert {each.name: each.shape for each in session.get_inputs()}["prototypes"] == [1, count, width]
    inputs = {each.name: np.zeros(each.shape, np.float32) for each in session.get_inputs()}
    inputs |= {"clock": np.zeros((), np.int32), "ages": np.zeros(1, np.int32), "frames": frames[0, :1]}
    results = []
    for prototypes in np.random.default_rng(0).standard_normal((2, 1, count, width)).astype(np.float32):
        results.append(session.run(["features", "masks"], {**inputs, "prototypes": prototypes}))
    (features, masks), (again, others) = results
    assert np.array_equal(features, again) and (masks != others).any()
    segmenter = streaming.StreamSegmenter(network.model, config, SIZE)
    x = normalise(stablehlo.resized(segmenter, jnp.asarray(frames[0, :1])))
    expected = network.model.apply(network.variables, x, method="prototype_tokens")
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.onnx
def test_layers_are_operators(network, file):
    """Each layer is the operator that engines have a program for, and nothing is computed twice."""
    import onnx as package

    nodes = list(package.load(file).graph.node)
    kinds = collections.Counter(node.op_type for node in nodes)
    blocks = 4 + network.model.local_blocks  # Of the encoder one a stage.
    assert kinds["Gelu"] == kinds["Softmax"] == blocks
    # Of a stage's embedding and its end, two of a block, and of the reduction but in the last one. A mining block has
    # one of the target's and the references' features, which are the same in the first, and one before its MLP.
    assert network.model.local_blocks == 1 and kinds["LayerNormalization"] == 4 * 4 + 3 + 2
    assert kinds["Conv"] == 4 + 4 and kinds["ArgMax"] == 1
    assert not {"Erf", "Sqrt", "ReduceMean", "Einsum", "Loop"} & set(kinds)
    computed = {(node.op_type, *node.input, str(node.attribute)) for node in nodes}
    assert len(computed) == len(nodes)


def test_how_near_a_step_is(tmp_path):
    """Against engines of the very step: moved by a little, by too much, by nan, in the state and in the masks; and in
    one of two branches alone."""

    def step(clock, ages, state, frames):
        return clock + 1, ages + 1, 2 * state, frames[..., 0]

    shapes = {"clock": ((), "i4"), "ages": ((1,), "i4"), "x": ((3, 5), "f4"), "frames": ((1, 40, 50, 3), "u1")}
    inputs = {name: jax.ShapeDtypeStruct(*shape) for name, shape in shapes.items()}
    outputs = ["next_clock", "next_ages", "next_x", "masks"]

    def engine(state=0.0, pixels=0, of_keys=0):
        def run(inputs, _):
            clock, ages, x, masks = map(np.array, step(*inputs.values()))
            masks.reshape(-1)[: pixels + of_keys * (inputs["ages"][0] % 5 == 0)] += 1
            return [clock, ages, x + state, masks]

        return run

    for run, said in {engine(): "0 of 4000 pixels", engine(pixels=1): "2 of 4000 pixels"}.items():
        assert said in onnx._compare(tmp_path, run, step, inputs, outputs)
    for run in (engine(pixels=2), engine(of_keys=4), engine(state=0.1), engine(state=np.nan)):
        with pytest.raises(InputError, match="computes something else"):
            onnx._compare(tmp_path, run, step, inputs, outputs)


@pytest.mark.onnx
def test_another_result_is_not_written(network, tmp_path, monkeypatch):
    """As if the converter had lost a weight."""
    honest = onnx_engines.OnnxRuntime.runner

    def lossy(engine):
        run = honest(engine)
        return lambda inputs, wanted: [np.roll(each, 1, -1) if each.ndim == 3 else each for each in run(inputs, wanted)]

    monkeypatch.setattr(onnx_engines.OnnxRuntime, "runner", lossy)
    with pytest.raises(InputError, match="something else"):
        onnx.export_onnx(network, tmp_path / "x.onnx", SIZE)
    assert not list(tmp_path.iterdir())


@pytest.mark.onnx
def test_what_does_not_convert_is_refused(network, tmp_path, monkeypatch):
    loop = functools.partial(jax.lax.while_loop, lambda x: x < 3, lambda x: x + 1)
    monkeypatch.setattr(stablehlo, "step", lambda *arguments: ((), loop(arguments[3].max())))
    with pytest.raises(InputError, match="x.onnx: cffm_b0 computes while, which does not convert.*jax-export"):
        onnx.export_onnx(network, tmp_path / "x.onnx", SIZE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("to", ["onnx", "jax-export"])
def test_references_lie_where_they_are_asked_for(to, config, tmp_path, refused, monkeypatch):
    written = []
    for module, name in ((onnx, "export_onnx"), (stablehlo, "export_stream")):
        monkeypatch.setattr(module, name, lambda weights, *_, **__: written.append(weights.config.data.offsets))
    monkeypatch.setattr(onnx, "require_onnx", lambda _: None)
    monkeypatch.setattr(weights, "load", lambda name, **_: loaded(name, config))
    argv = [tmp_path / "x.onnx" if to == "onnx" else tmp_path / "x", "--to", to]
    commands.convert_command(["cffm_b0", *map(str, argv), "--offsets", "18", "12", "6"])
    commands.convert_command(["cffm_b0", *map(str, argv)])
    assert written == [(18, 12, 6), config.data.offsets]
    said = "--offsets: is 6 12 18; give 3 numbers of at least 1, the largest first"
    refused(commands.convert_command, ["cffm_b0", *argv, "--offsets", "6", "12", "18"], said)
    said = "--offsets: is given, and the method reads no references; leave it out"
    refused(commands.convert_command, ["segformer_b0", *argv, "--offsets", "18", "12", "6"], said)


def test_misuse_of_the_command(tmp_path, refused, monkeypatch):
    (tmp_path / "there.onnx").touch()
    refused(commands.convert_command, ["x", tmp_path / "there.onnx", "--to", "onnx"], "is there already")
    refused(commands.convert_command, ["x", tmp_path / "new.onnx", "--to", "onnx", "--size", 0, 5], "--size")
    said = f"{tmp_path / 'new'}: is no name for --to onnx; end it in .onnx"
    refused(commands.convert_command, ["x", tmp_path / "new", "--to", "onnx"], said)
    said = "new.onnx: is no name for --to cffm_jax; add --to onnx"
    refused(commands.convert_command, ["x", tmp_path / "new.onnx"], said)
    said = "--offsets: is given, and --to torch writes no step; leave it out"
    refused(commands.convert_command, ["x", tmp_path / "new.pth", "--to", "torch", "--offsets", 3, 2, 1], said)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    refused(commands.convert_command, ["x", tmp_path / "new.onnx", "--to", "onnx"], "make install-onnx")
