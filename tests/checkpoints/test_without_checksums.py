"""Steps without checksums: whole ones of early versions load, all else is set aside."""

import dataclasses
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
import pytest

from cffm_jax.checkpoints.by_path import newest_whole, open_checkpoints, sound_step
from cffm_jax.checkpoints.state import TrainState
from cffm_jax.checkpoints.store import Checkpoints
from cffm_jax.config import Config
from cffm_jax.errors import InputError
from cffm_jax.training.sharding import make_mesh, replicated


def state_at(step):
    params = {"encoder": {"kernel": jnp.arange(64.0).reshape(8, 8) * step}, "bias": jnp.float32([step, 2.5])}
    opt_state = optax.adam(1e-3).init(params)
    state = TrainState(jnp.int32(step), params, {"mean": jnp.ones(3)}, opt_state, jnp.int32(0), jnp.int32(0))
    return jax.device_put(state, replicated(make_mesh(1)))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Steps 2 and 4, as this version saves them."""
    workdir = tmp_path_factory.mktemp("run") / "run"
    with Checkpoints(workdir, create=True) as checkpoints:
        for step in (2, 4):
            checkpoints.save(state_at(step), Config())
    return workdir


@pytest.fixture(scope="module")
def early(tmp_path_factory):
    """The same as versions before there were checksums and counters saved them."""
    workdir = tmp_path_factory.mktemp("early") / "run"
    options = ocp.CheckpointManagerOptions(create=True)
    with ocp.CheckpointManager(workdir / "checkpoints", options=options) as manager:
        for step in (2, 4):
            state = state_at(step)
            items = ocp.args.Composite(
                variables=ocp.args.StandardSave(state.variables),
                optimizer=ocp.args.StandardSave({"opt_state": state.opt_state}),
                config=ocp.args.JsonSave(dataclasses.asdict(Config())),
            )
            manager.save(step, args=items)
    return workdir


def without(folder, *names):
    for name in names:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def emptied(folder):
    shutil.rmtree(folder)
    folder.mkdir()


DAMAGES = {
    "empty": emptied,
    "a file": lambda folder: (shutil.rmtree(folder), folder.write_text("x")),
    "no manifest": lambda folder: without(folder, "manifest.sha256"),
    "an empty manifest": lambda folder: (folder / "manifest.sha256").write_text(""),
    "the manifest alone": lambda folder: without(folder, "variables", "optimizer", "config", "counters"),
    "no manifest and no optimizer": lambda folder: without(folder, "manifest.sha256", "counters", "optimizer"),
    "no manifest and no config": lambda folder: without(folder, "manifest.sha256", "counters", "config"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_step_is_set_aside(run, tmp_path, damage):
    workdir = Path(shutil.copytree(run, tmp_path / "run"))
    DAMAGES[damage](workdir / "checkpoints" / "4")
    step, (note,) = newest_whole(workdir)
    assert step == 2 and "checkpoints/4 is damaged" in note and "set aside as 4.damaged" in note
    with open_checkpoints(workdir) as checkpoints, pytest.raises(InputError, match=r"checkpoints/4: is damaged"):
        sound_step(checkpoints, workdir)  # Evaluation refuses it.
    with Checkpoints(workdir, create=True) as checkpoints:
        checkpoints.set_aside(2)
        assert checkpoints.steps() == [2]
    assert newest_whole(workdir) == (2, ())
    assert (workdir / "checkpoints" / "4.damaged").exists()


def files_of(folder):
    """Those that hold what is restored; beside them are notes, and what was merged already."""
    trees = [folder / name for name in ("variables", "optimizer")]
    found = [path for tree in trees for path in (*tree.glob("d/*"), tree / "manifest.ocdbt", tree / "_METADATA")]
    return [*found, folder / "config" / "metadata"]


def test_a_step_of_an_early_version_is_read_to_the_end(early, tmp_path):
    assert newest_whole(early)[0] == 4
    workdir = Path(shutil.copytree(early, tmp_path / "run"))
    files = files_of(workdir / "checkpoints" / "4")
    assert len(files) >= 7
    for path in files:
        content = path.read_bytes()
        for other in (None, b"", content[: len(content) // 2]):
            path.unlink()
            if other is not None:
                path.write_bytes(other)
            step, (note, *_) = newest_whole(workdir)
            assert step == 2 and "has no checksums and cannot be read" in note, (path, other)
            path.write_bytes(content)
    assert newest_whole(workdir)[0] == 4


def test_a_step_of_an_early_version_is_restored(early):
    with open_checkpoints(early) as checkpoints:
        assert checkpoints.damage(4) == "" and checkpoints.unchecked(4)
        restored = checkpoints.restore(4, state_at(0))
        assert checkpoints.config(4) == Config()
    assert float(restored.params["bias"][0]) == 4 and int(restored.step) == 4
