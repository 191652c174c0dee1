"""CFFM++ from end to end: prototypes, training of the global blocks on top of a CFFM, evaluation; and its bad input."""

import dataclasses
import functools
import json
import shutil
import types
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cffm_jax
from cffm_jax.channels import Channels
from cffm_jax.checkpoints.by_path import open_checkpoints
from cffm_jax.commands.convert import convert_command
from cffm_jax.commands.eval import eval_command
from cffm_jax.commands.train import train_command
from cffm_jax.data import evaluation_frames
from cffm_jax.data.layouts import read as layouts
from cffm_jax.errors import InputError
from cffm_jax.inference import prototype_store, video_prototypes
from cffm_jax.inference.argmax import segmentation_masks
from cffm_jax.inference.whole_videos import VideoSegmenter
from cffm_jax.models import create
from cffm_jax.models import variables as models_variables
from cffm_jax.models.kmeans import cluster, kmeans
from cffm_jax.models.normalise import normalise
from cffm_jax.runtime.command_line import run_command
from cffm_jax.settings import load_config
from cffm_jax.training import optim, setup
from cffm_jax.training.sharding import batch_sharded, init_state, make_mesh, replicated
from cffm_jax.training.step import make_train_step

from helpers.runs import DEPTHS, FRAMES, STEPS, WIDTH, files, final_variables, leaves, log_lines, train_argv

pytestmark = pytest.mark.long

P = 12
GLOBAL = ("globals_0", "global_classifier")


def stage_argv(data, workdir, *more):
    return train_argv(data, workdir, "--model.name", "cffmpp_b0", "--prototypes.count", P, "--optim.ema", 0.5, *more)


@pytest.fixture(scope="module")
def second(trained, data, tmp_path_factory):
    """Folder of a finished run of the second stage, which keeps an average of what it trains."""
    workdir = tmp_path_factory.mktemp("second") / "run"
    assert run_command(train_command, stage_argv(data, workdir, "--init.model", trained[0])) == 0
    return workdir


@pytest.fixture(scope="module")
def both(second, tmp_path_factory):
    """Figures of the command with both kinds of prototypes."""
    output = tmp_path_factory.mktemp("both") / "figures.json"
    assert (
        run_command(eval_command, ["--checkpoint", str(second), "--eval.prototypes", "both", "--output", str(output)])
        == 0
    )
    return json.loads(output.read_text())["rows"]


# --- training


def test_all_but_the_global_blocks_stays_as_it_was_to_the_bit(trained, second):
    first, last = (leaves(final_variables(folder)[1]) for folder in (trained[0], second))
    added = {name for name in last if any(f"['{part}']" in name for part in GLOBAL)}
    assert set(last) - added == set(first)
    for name, array in first.items():
        np.testing.assert_array_equal(array, last[name], err_msg=name)
    start = leaves(final_variables(second, 2)[1])
    moved = {name for name in last if not np.array_equal(start[name], last[name])}
    assert moved == added


def test_the_optimiser_holds_no_state_of_what_is_frozen(second):
    with open_checkpoints(second) as checkpoints:
        config = checkpoints.config(STEPS)
    model = create.build_model(config.model)
    variables = models_variables.init_variables(model, jax.random.key(0))
    state = init_state(model, variables, optim.make_optimizer(config.optim, STEPS, model), make_mesh(1))
    held = {str(path[0]) for path, _ in flat_params(state.opt_state)}
    assert held == {f"['{part}']" for part in GLOBAL}


def test_the_average_of_what_is_trained_is_loaded_unless_raw(second):
    average, raw = cffm_jax.load(second), cffm_jax.load(second, raw=True)
    assert average.origin == f"{raw.origin}, EMA weights" == f"cffm_jax run, step {STEPS}, EMA weights"
    found, expected = leaves(average.variables), leaves(raw.variables)
    _, last = final_variables(second)
    assert all(np.array_equal(array, expected[name]) for name, array in leaves(last).items())
    differ = {name for name in expected if not np.array_equal(found[name], expected[name])}
    assert differ and all(any(f"['{part}']" in name for part in GLOBAL) for name in differ)


def flat_params(opt_state):
    moments = next(
        part for part in jax.tree.leaves(opt_state, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(part, "mu")
    )
    return jax.tree_util.tree_leaves_with_path(moments.mu)


def test_the_loss_is_that_of_the_global_logits(second):
    for line in log_lines(second, "train"):
        assert np.isfinite(line["loss"]) and "frame_loss" not in line and "clip_loss" not in line
    line = log_lines(second, "eval")[-1]
    assert {name.partition("/")[0] for name in line if "/" in name} == {"CFFM++", "CFFM", "per-frame (SegFormer)"}


def test_the_loader_reads_targets_alone(second, trained, data):
    with open_checkpoints(second) as checkpoints:
        config = dataclasses.replace(checkpoints.config(STEPS), workdir=str(second) + "x")
    config = dataclasses.replace(config, init=dataclasses.replace(config.init, model=str(trained[0])))
    with setup.prepare(config) as run:
        batch = next(run.clips)
    assert batch["frames"].shape == (2, 1, 64, 64, 3) and batch["prototypes"].shape == (2, P, WIDTH)
    shutil.rmtree(config.workdir)


def test_the_step_is_cheaper_than_the_first_stages(second, trained):
    """Operations as XLA counts them: a fourth of the frames, and no backward pass but the global blocks' (which for B0
    make up two thirds of what is left)."""
    model = final_variables(second)[0].clone(depths=())
    base, mesh, variables = model.clone(global_blocks=0), make_mesh(1), models_variables.variable_shapes(model)
    config = load_config(str(Path(__file__).parents[2] / "configs/synthetic.py"))
    optimizer = optim.make_optimizer(config.optim, STEPS, model)
    flops = []
    for m, t in ((base, 4), (model, 1)):
        state = jax.eval_shape(lambda v, m=m: init_state(m, v, optimizer, mesh), variables)
        batch = {"frames": (2, t, 64, 64, 3), "labels": (2, t, 64, 64), "size": (2, 2), "prototypes": (2, P, WIDTH)}
        kinds = {"frames": jnp.uint8, "labels": jnp.uint8, "size": jnp.int32, "prototypes": jnp.float32}
        batch = {k: jax.ShapeDtypeStruct(shape, kinds[k], sharding=batch_sharded(mesh)) for k, shape in batch.items()}
        step = make_train_step(m, optimizer, mesh, frame_loss_weight=0.5)
        key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype, sharding=replicated(mesh))
        flops.append(step.lower(state, batch, key).cost_analysis()["flops"])
    assert flops[1] < 0.25 * flops[0]


def test_same_command_again_is_done_already(second, trained, data, capfd):
    before = files(second / "checkpoints") | files(second / "prototypes")
    assert run_command(train_command, stage_argv(data, second, "--init.model", trained[0])) == 0
    assert f"has done its {STEPS} steps already" in capfd.readouterr().out
    assert files(second / "checkpoints") | files(second / "prototypes") == before


def test_a_released_state_dict_starts_it_too(trained, data, second, tmp_path):
    """From a file without global blocks, as from the checkpoint: the same bits; and with them, as a whole model."""
    path, whole_path = tmp_path / "cffm.safetensors", tmp_path / "pp.safetensors"
    for source, file in ((trained[0], path), (second, whole_path)):
        argv = [str(source), str(file), "--to", "safetensors", "--raw"]
        assert run_command(convert_command, argv) == 0
    config = load_config(str(Path(__file__).parents[2] / "configs/synthetic.py"))
    config = dataclasses.replace(
        config, model=dataclasses.replace(config.model, name="cffmpp_b0", depths=DEPTHS, width=WIDTH)
    )
    whole = create.build_model(config.model)

    def start(source):
        named = dataclasses.replace(config, init=dataclasses.replace(config.init, model=str(source)))
        return setup.initial_weights(whole, named, jax.random.key(5))[:2]

    (a, said), (b, _) = start(path), start(trained[0])
    assert "random: global blocks (not there), global classifier (not there)" in said and str(path) in said
    jax.tree.map(np.testing.assert_array_equal, leaves(a), leaves(b))
    back, said = start(whole_path)
    assert "; random:" not in said and "global blocks, global classifier" in said
    jax.tree.map(np.testing.assert_array_equal, leaves(back), leaves(final_variables(second)[1]))


# --- prototypes


@pytest.fixture(scope="module")
def network(second):
    """(model, variables, config, jitted features of one frame's file) of the finished run."""
    model, variables = final_variables(second)
    with open_checkpoints(second) as checkpoints:
        config = checkpoints.config(STEPS)
    encode = jax.jit(lambda v, frame: model.apply(v, normalise(frame[None]), method="encode").coarse.reshape(-1, WIDTH))

    def features(paths):
        frames = [evaluation_frames.load_evaluation_frame(path, config.data.frame_size)[0] for path in paths]
        return np.concatenate([encode(variables, frame) for frame in frames])

    return model, variables, config, features


@pytest.mark.parametrize(("rule", "indices"), [("release", (3, 9, 15)), ("paper", (0, 6, 12))])  # d = 18 // 3
def test_prototypes_are_the_clusters_of_the_frames_of_the_rule(network, data, rule, indices):
    model, variables, config, features = network
    config = dataclasses.replace(config, prototypes=dataclasses.replace(config.prototypes, rule=rule, frames=3))
    video = layouts.read_split(str(data), "val")[0]
    found = video_prototypes.Prototyper(model, variables, config).of(video)
    expected = kmeans(jax.random.key(0), features([video.frames[i] for i in indices]), P)[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_a_short_video_is_clustered_from_what_there_is(network, data):
    model, variables, config, features = network
    video = layouts.read_split(str(data), "val")[0]
    source = video_prototypes.Prototyper(model, variables, config)
    for length in (1, 3):
        short = dataclasses.replace(video, frames=video.frames[:length], masks=video.masks[:length])
        found, tokens = source.of(short), features(short.frames)
        nearest = np.square(tokens[:, None] - found).sum(-1).min(1).sum()
        clusters = cluster(jax.random.key(1), tokens, P)
        assert found.shape == (P, WIDTH) and nearest < 1.2 * clusters.inertia


def test_prototypes_are_stored_and_not_computed_again(second, network, data, monkeypatch):
    store = prototype_store.PrototypeStore(second / "prototypes" / "val.sqlite")
    model, variables, config, _ = network
    videos = layouts.read_split(str(data), "val")
    source = video_prototypes.Prototyper(model, variables, config, store)
    computed = []
    monkeypatch.setattr(
        video_prototypes.Prototyper, "_compute", lambda self, video: computed.append(video.name) or np.zeros((P, WIDTH))
    )
    assert video_prototypes.all_prototypes(source, videos, "val").shape == (2, P, WIDTH) and not computed
    # Of other weights or settings they are not: of a video's own classifier they do not depend.
    other = jax.tree.map(lambda x: x, variables)
    other["params"]["global_classifier"]["bias"] = other["params"]["global_classifier"]["bias"] + 1
    video_prototypes.Prototyper(model, other, config, store).of(videos[0])
    assert not computed
    other["params"]["decoder"]["fuse"] = other["params"]["decoder"]["fuse"] * 1.5
    changed = dataclasses.replace(config, prototypes=dataclasses.replace(config.prototypes, seed=1))
    temporary = prototype_store.PrototypeStore(second.parent / "other.sqlite")
    for kept in (
        video_prototypes.Prototyper(model, other, config, temporary),
        video_prototypes.Prototyper(model, variables, changed, temporary),
        video_prototypes.Prototyper(model.clone(norm_epsilons=(1e-3, 1e-3)), variables, config, temporary),
        video_prototypes.Prototyper(model.clone(channels=Channels(mean=(0.0,) * 3)), variables, config, temporary),
        video_prototypes.Prototyper(model.clone(dtype="bfloat16"), variables, config, temporary),
    ):
        kept.of(videos[0])
    assert computed == [videos[0].name] * 5


def test_prototypes_of_another_network(network, trained, data, second, tmp_path):
    """Of the CFFM that this one started from they are its own; of a SegFormer's random weights they are not."""
    model, variables, config, _ = network
    video = layouts.read_split(str(data), "val")[0]
    own = video_prototypes.Prototyper(model, variables, config).of(video)
    plan = dataclasses.replace(config.prototypes, checkpoint=str(trained[0]), folder=str(tmp_path))
    config = dataclasses.replace(config, prototypes=plan)
    other = jax.tree.map(lambda x: 0.5 * x, variables)
    source = video_prototypes.prototype_source(config, model, other, "val")
    np.testing.assert_array_equal(source.of(video), own)
    assert np.abs(video_prototypes.Prototyper(model, other, config).of(video) - own).max() > 0.01


def test_training_goes_on_after_half_of_the_prototypes(trained, data, tmp_path, monkeypatch):
    compute, done = video_prototypes.Prototyper._compute, []

    def dies(self, video):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(video.name)
        return compute(self, video)

    monkeypatch.setattr(video_prototypes.Prototyper, "_compute", dies)
    argv = stage_argv(data, tmp_path / "run", "--init.model", trained[0], "--train.steps", 2)
    assert run_command(train_command, argv) == 130
    seen = []
    monkeypatch.setattr(
        video_prototypes.Prototyper, "_compute", lambda self, video: seen.append(video.name) or compute(self, video)
    )
    assert run_command(train_command, argv) == 0
    assert not set(seen) & set(done) and len(seen) == 4  # two of the four for training, two for the evaluation


# --- evaluation


def test_rows_of_both_kinds_of_prototypes(both):
    assert list(both) == ["CFFM++", "CFFM++, causal", "CFFM", "per-frame (SegFormer)"]
    assert all(row["frames"] == 2 * FRAMES for row in both.values())


@pytest.fixture(scope="module")
def segmented(network, data):
    """``segmented(chunk, mode, length)`` -> masks u8[T, H0, W0] of the first validation video by row."""
    model, variables, config, _ = network
    video = layouts.read_split(str(data), "val")[0]

    @functools.cache
    def run(chunk: int, mode: str, length: int = FRAMES):
        plan = dataclasses.replace(config.eval, chunk=chunk, prototypes=mode)
        source = types.SimpleNamespace(of=lambda _: some_prototypes())
        segmenter = VideoSegmenter(model, dataclasses.replace(config, eval=plan), source)
        short = dataclasses.replace(video, frames=video.frames[:length], masks=video.masks[:length])
        chunks = list(segmenter.segment(variables, [short]))
        return {row: np.concatenate([chunk.masks[row] for chunk in chunks]) for row in segmenter.rows}

    return run


def some_prototypes() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((P, WIDTH)).astype(np.float32)


def test_masks_equal_the_clip_by_clip_definition(network, data, segmented):
    model, variables, config, _ = network
    found = segmented(8, "both")
    video = layouts.read_split(str(data), "val")[0]
    frames = np.stack(
        [evaluation_frames.load_evaluation_frame(path, config.data.frame_size)[0] for path in video.frames]
    )
    clip = jax.jit(lambda v, x, p: model.apply(v, normalise(x)[None], prototypes=p[None]))
    for t in (9, 17):
        logits = clip(variables, frames[[t - 9, t - 6, t - 3, t]], some_prototypes())
        expected = np.asarray(segmentation_masks(logits, frames.shape[1:3], found["CFFM++"].shape[1:]))[0]
        assert (found["CFFM++"][t] == expected).mean() > 0.999
    assert (found["CFFM++"] != found["CFFM"]).any() and (found["CFFM++"] != found["CFFM++, causal"]).any()


def test_without_references_the_frames_own_logits_are_the_local_ones(network, data, segmented):
    model, variables, config, _ = network
    video = layouts.read_split(str(data), "val")[0]
    frame = evaluation_frames.load_evaluation_frame(video.frames[0], config.data.frame_size)[0][None]

    def logits(model, frame, p):
        features = model.encode(normalise(frame))
        return model.classify_frames(features.fine) + 0.5 * model.classify_global(model.mine_global(features.coarse, p))

    expected = jax.jit(lambda v, x, p: model.apply(v, x, p, method=logits))(variables, frame, some_prototypes()[None])
    expected = np.asarray(segmentation_masks(expected, frame.shape[1:3], segmented(8, "both")["CFFM++"].shape[1:]))[0]
    assert (segmented(8, "both")["CFFM++"][0] == expected).mean() > 0.999


def test_causal_masks_know_nothing_of_later_frames(segmented):
    whole, part = segmented(8, "causal"), segmented(8, "causal", 11)
    assert list(whole) == ["CFFM++, causal", "CFFM", "per-frame (SegFormer)"]
    for row in whole:
        np.testing.assert_array_equal(whole[row][:11], part[row])


def test_the_chunk_changes_nothing(segmented):
    for row, masks in segmented(8, "both").items():
        assert (masks != segmented(5, "both")[row]).mean() < 2e-3, row


def test_the_base_scores_as_before(both, trained, tmp_path):
    output = tmp_path / "figures.json"
    assert run_command(eval_command, ["--checkpoint", str(trained[0]), "--output", str(output)]) == 0
    before = json.loads(output.read_text())["rows"]
    for row in ("CFFM", "per-frame (SegFormer)"):
        assert both[row]["miou"] == pytest.approx(before[row]["miou"], abs=2e-3)


# --- bad input


def test_no_base_is_named(data, tmp_path, refused):
    refused(train_command, stage_argv(data, tmp_path / "run"), "--init.model", "cffm_b0")


LACKS = "lacks the frame classifier that cffmpp_b0 needs (8 classes there, 7 here)"


def test_a_base_that_does_not_fit(trained, data, plain, tmp_path, refused):
    more = ("--init.model", trained[0])
    wide = ("--model.receptive", 49, 25, 15, "--model.pooling", 7, 5, 3)
    refused(train_command, stage_argv(data, tmp_path / "run", *more, *wide), trained[0], "model.receptive")
    refused(train_command, stage_argv(data, tmp_path / "run", *more, "--model.name", "cffmpp_b1"), "model.name")
    refused(train_command, stage_argv(data, tmp_path / "run", *more, "--model.blocks", 2), "model.blocks")
    refused(train_command, stage_argv(plain, tmp_path / "run", *more, "--model.num_classes", 7), trained[0], LACKS)


def test_more_prototypes_than_tokens(second, data, refused, tmp_path):
    for more in ((), ("--eval.prototypes", "causal")):
        argv = ["--checkpoint", second, "--prototypes.count", 5000, "--prototypes.folder", tmp_path, *more]
        assert_refused(argv, "fewer than 5000 prototypes", "--prototypes.count")


def assert_refused(argv, *said):
    """As ``refused``, where a folder of kept prototypes comes to be and progress is shown."""
    import contextlib
    import io

    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        status = run_command(eval_command, [str(part) for part in argv])
    line = err.getvalue().strip().splitlines()[-1]
    assert status == 2 and "error: " in line and "Traceback" not in err.getvalue()
    for words in said:
        assert str(words) in line


@pytest.mark.parametrize(
    ("option", "value"),
    [("count", 0), ("frames", 0), ("iterations", 0), ("interval", 0)],
)
def test_numbers_at_fault(second, refused, option, value):
    refused(eval_command, ["--checkpoint", second, f"--prototypes.{option}", value], f"--prototypes.{option}", "is 0")


def test_features_that_are_not_finite(network, data):
    model, variables, config, _ = network
    video = layouts.read_split(str(data), "val")[0]
    huge = jax.tree_util.tree_map_with_path(
        lambda path, x: x * 1e30 if "['norm']['scale']" in jax.tree_util.keystr(path) else x, variables
    )
    with pytest.raises(InputError, match="features are not finite"):
        video_prototypes.Prototyper(model, huge, config).of(video)
    with pytest.raises(InputError, match="decoder.*fuse.*is not finite"):
        variables = jax.tree_util.tree_map_with_path(
            lambda path, x: x * np.nan if "fuse" in jax.tree_util.keystr(path) else x, variables
        )
        video_prototypes.Prototyper(model, variables, config)


def test_a_store_that_is_none(second, tmp_path, refused):
    (tmp_path / "val.sqlite").write_bytes(b"no database" * 100)
    refused(eval_command, ["--checkpoint", second, "--prototypes.folder", tmp_path], "val.sqlite", "cannot be used")


# --- the authors' files


def write_centres(path: Path, array: np.ndarray) -> None:
    """What torch.save writes for one float32 tensor, without torch."""
    import io
    import pickle

    class Named:  # Pickles as a reference to a name in a module, without the module.
        def __init__(self, module, name):
            self.module, self.name = module, name

    class Pickler(pickle._Pickler):
        def persistent_id(self, obj):
            return ("storage", Named("torch", "FloatStorage"), "0", "cpu", array.size) if obj is array else None

        def save_named(self, obj):
            self.write(b"c" + f"{obj.module}\n{obj.name}\n".encode())

        dispatch = {**pickle._Pickler.dispatch, Named: save_named}

    out = io.BytesIO()
    pickler = Pickler(out, 2)

    class Tensor:
        pass

    def save_tensor(self, obj):
        strides = tuple(s // 4 for s in array.strides)
        self.save(Named("torch._utils", "_rebuild_tensor_v2"))
        self.save((array, 0, array.shape, strides, False, None))
        self.write(pickle.REDUCE)

    pickler.dispatch = {**Pickler.dispatch, Tensor: save_tensor}
    pickler.dump(Tensor())
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("centers/data.pkl", out.getvalue())
        file.writestr("centers/data/0", array.astype("<f4").tobytes())


@pytest.fixture
def imported(data, tmp_path):
    folder = tmp_path / "cluster_centers"
    rng = np.random.default_rng(0)
    for i, video in enumerate(layouts.read_split(str(data), "val")):
        centres = rng.standard_normal((P, WIDTH)).astype(np.float32)
        write_centres(folder / video.name / "centers.pt", centres[None] if i else centres)
    return folder


def test_the_authors_prototypes(second, data, imported, tmp_path):
    source = video_prototypes.ImportedPrototypes(str(imported), WIDTH)
    found = video_prototypes.all_prototypes(source, layouts.read_split(str(data), "val"), "val")
    expected = np.random.default_rng(0).standard_normal((2, P, WIDTH)).astype(np.float32)
    np.testing.assert_array_equal(found, expected)
    argv = ["--checkpoint", str(second), "--prototypes.imported", str(imported), "--output", str(tmp_path / "out.json")]
    assert run_command(eval_command, argv) == 0


def test_the_authors_prototypes_at_fault(second, data, imported, refused):
    names = [video.name for video in layouts.read_split(str(data), "val")]
    argv = ["--checkpoint", second, "--prototypes.imported"]
    refused(eval_command, [*argv, imported / "none"], imported / "none", "no such folder or file")
    path = imported / names[0] / "centers.pt"
    write_centres(path, np.zeros((P, 128), np.float32))
    assert_refused([*argv, imported], path, names[0], f"is [{P}, 128], not [prototypes, {WIDTH}]")
    write_centres(path, np.full((P, WIDTH), np.nan, np.float32))
    assert_refused([*argv, imported], path, "not finite")
    path.write_bytes(b"nothing")
    assert_refused([*argv, imported], path)
    path.unlink()
    assert_refused([*argv, imported], imported, "holds no prototypes of video", names[0])
