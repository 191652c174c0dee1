"""Checkpoints that survive: damage is noticed, the best stays, what a kill leaves behind goes; with a state of a few
numbers."""

import contextlib
import dataclasses
import json
import math
import resource
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from cffm_jax import settings
from cffm_jax.channels import MEAN, STD
from cffm_jax.checkpoints import by_path, space
from cffm_jax.checkpoints.by_path import newest_whole, open_checkpoints, sound_step
from cffm_jax.checkpoints.compatible import changed_settings, require_same_model, require_same_run
from cffm_jax.checkpoints.state import TrainState
from cffm_jax.checkpoints.store import Checkpoints
from cffm_jax.config import SETTINGS, Config, ModelConfig
from cffm_jax.errors import InputError
from cffm_jax.rules import values, with_changes
from cffm_jax.runtime import checksums
from cffm_jax.settings import load_config
from cffm_jax.training.sharding import make_mesh, replicated

from helpers.runs import CONFIG

STEPS = (2, 4, 6)


def state_at(step, mesh=None, scale=1.0):
    params = {"encoder": {"kernel": jnp.arange(64.0).reshape(8, 8) * scale * step}, "bias": jnp.float32([step, 2.5])}
    opt_state = optax.adam(1e-3).init(params)
    state = TrainState(jnp.int32(step), params, {"mean": jnp.ones(3)}, opt_state, jnp.int32(step // 2), jnp.int32(1))
    return jax.device_put(state, replicated(mesh or make_mesh(1)))


def save(workdir, *steps, keep=None):
    with Checkpoints(workdir, keep, create=True) as checkpoints:
        for step in steps:
            checkpoints.save(state_at(step), Config())


def assert_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "run"
    save(workdir, *STEPS)
    return workdir


@pytest.fixture
def copy(run, tmp_path):
    return Path(shutil.copytree(run, tmp_path / "run"))


def names(workdir):
    return sorted(path.name for path in (workdir / "checkpoints").iterdir())


def spoil(workdir, step):
    """Flips a bit in the largest file of a step: Orbax restores it all the same, or fails in words of its own."""
    path = max((workdir / "checkpoints" / str(step)).rglob("d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path


# --- whole or damaged


def test_round_trip_onto_other_devices(tmp_path):
    split = NamedSharding(make_mesh(8), PartitionSpec("data"))
    state = state_at(3, make_mesh(8))
    params = {**state.params, "encoder": jax.device_put(state.params["encoder"], split)}
    with Checkpoints(tmp_path, create=True) as checkpoints:
        checkpoints.save(state.replace(params=params), Config())
        checkpoints.wait()
        for devices in (1, 2, 8):
            restored = checkpoints.restore(3, state_at(0, make_mesh(devices), scale=0.0))
            assert_equal(restored, state)
            assert all(len(leaf.sharding.device_set) == devices for leaf in jax.tree.leaves(restored))


def test_every_flip_truncation_and_deletion_is_found(copy):
    folder = copy / "checkpoints" / "4"
    paths = [path for path in folder.rglob("*") if path.is_file()]
    assert len(paths) > 20
    with Checkpoints(copy) as checkpoints:
        assert checkpoints.damage(4) == ""
        for path in paths:
            content = path.read_bytes()
            middle = len(content) // 2
            for other in (
                content[:middle] + bytes([content[middle] ^ 16]) + content[middle + 1 :],
                content[:-1],
                content[:middle],
                None,
            ):
                path.unlink()
                if other is not None:
                    path.write_bytes(other)
                assert path.name in checkpoints.damage(4) or path.name == checksums.NAME and checkpoints.damage(4), path
                path.write_bytes(content)
        lines = (folder / checksums.NAME).read_text().splitlines(keepends=True)
        (folder / checksums.NAME).write_text("".join(lines[:-1]))
        assert "is not in manifest.sha256" in checkpoints.damage(4)


def test_a_damaged_step_falls_back_to_the_one_before(copy):
    path = spoil(copy, 6)
    step, (note,) = newest_whole(copy)
    assert step == 4 and f"{copy}/checkpoints/6 is damaged" in note and f"{path.name} has changed" in note
    assert names(copy) == ["2", "4", "6"]  # Looking changes nothing.
    with Checkpoints(copy, 3, create=True) as checkpoints:
        for step, miou in ((4, 0.1), (6, 0.2)):
            checkpoints.record(step, miou)
        checkpoints.set_aside(4)
        assert checkpoints.evaluations() == {4: 0.1}
        checkpoints.save(state_at(6), Config())
    assert names(copy) == ["2", "4", "6", "6.damaged", "miou.json"]
    assert newest_whole(copy) == (6, ())
    for step in STEPS:
        spoil(copy, step)
    with pytest.raises(InputError, match=f"all checkpoints are damaged: {copy}/checkpoints/6 is damaged"):
        newest_whole(copy)


def test_nothing_yet(tmp_path):
    assert newest_whole(tmp_path) == (0, ())
    assert not any(tmp_path.iterdir())


def test_what_a_kill_leaves_behind_goes(copy):
    folder = copy / "checkpoints"
    for name in ("8.unsealed.orbax-checkpoint-tmp", "8.unsealed", "2.deleted", "8.orbax-checkpoint-tmp-17"):
        shutil.copytree(folder / "2", folder / name)  # Of 8.unsealed Orbax was done, but there were no checksums yet.
    shutil.copytree(folder / "2", folder / "mine")
    assert newest_whole(copy) == (6, ()) and len(names(copy)) == 8
    with Checkpoints(copy, create=True) as checkpoints:
        assert names(copy) == ["2", "4", "6", "mine"]
        checkpoints.save(state_at(8), Config())
    assert newest_whole(copy) == (8, ())


def test_runs_from_before_there_were_checksums(tmp_path):
    state, folder = state_at(4), tmp_path / "checkpoints"
    options = ocp.CheckpointManagerOptions(create=True)
    with ocp.CheckpointManager(folder, options=options) as manager:
        items = ocp.args.Composite(
            variables=ocp.args.StandardSave(state.variables),
            optimizer=ocp.args.StandardSave({"opt_state": state.opt_state}),
            config=ocp.args.JsonSave(dataclasses.asdict(Config())),
        )
        manager.save(4, args=items)
    step, (note,) = newest_whole(tmp_path)
    assert step == 4 and "has no checksums" in note
    with open_checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(4, state_at(0))
        assert checkpoints.config(4) == Config() and sound_step(checkpoints, tmp_path) == 4
    assert_equal(restored, state.replace(skipped=jnp.int32(0), bad_in_a_row=jnp.int32(0)))


# --- which are kept


def test_the_latest_and_the_best_are_kept(tmp_path):
    mious = {1: 0.2, 2: 0.5, 3: math.nan, 4: 0.5, 5: 0.1, 6: 0.3}
    with Checkpoints(tmp_path, keep=2, create=True) as checkpoints:
        assert checkpoints.best() is None
        for step, miou in mious.items():
            checkpoints.save(state_at(step), Config())
            checkpoints.record(step, miou)
        checkpoints.wait()
        assert checkpoints.steps() == [2, 5, 6] and checkpoints.best() == 2 and checkpoints.latest() == 6
        checkpoints.save(state_at(7), Config())
        checkpoints.record(7, 0.6)
        checkpoints.save(state_at(8), Config())
        checkpoints.wait()
        assert checkpoints.steps() == [7, 8] and checkpoints.evaluations()[3] is None
    (tmp_path / "checkpoints" / "miou.json").write_text("[1")
    with pytest.raises(InputError, match=r"miou.json: does not hold the mIoU by step; delete it"):
        Checkpoints(tmp_path).best()


def test_checkpoints_by_name(copy):
    with open_checkpoints(copy) as checkpoints:
        with pytest.raises(InputError, match="no checkpoint of this run was evaluated; name another, of 2 4 6"):
            sound_step(checkpoints, copy / "checkpoints" / "best")
        checkpoints.record(2, 0.3)
        for name, step in (("", 6), ("checkpoints", 6), ("checkpoints/4", 4), ("checkpoints/best", 2)):
            assert by_path.workdir_of(copy / name) == copy
            assert sound_step(checkpoints, copy / name) == step
        with pytest.raises(InputError, match="checkpoints/5: there is no such checkpoint; name another, of 2 4 6: "):
            sound_step(checkpoints, copy / "checkpoints" / "5")
        spoil(copy, 6)
        with pytest.raises(InputError, match=r"checkpoints/6: is damaged \(variables/.* has changed\); .* of 2 4: "):
            sound_step(checkpoints, copy)
    file = copy / "checkpoints" / "17"
    file.write_text("weights")
    assert by_path.workdir_of(file) == file


# --- saves that fail


def test_too_little_space(copy, monkeypatch):
    usage = shutil.disk_usage(copy)._replace(free=100)
    monkeypatch.setattr(space.shutil, "disk_usage", lambda path: usage)
    with Checkpoints(copy, create=True) as checkpoints:
        with pytest.raises(InputError, match=r"checkpoints: a checkpoint takes 0 MB, 0 MB are free; free some space"):
            checkpoints.save(state_at(8), Config())
    assert newest_whole(copy) == (6, ())
    with pytest.raises(InputError, match="not/yet"):
        space.require_space(copy / "not" / "yet", state_at(8))


@contextlib.contextmanager
def small_files_only(size):
    """The system writes no larger files: as on a full disk, saving fails on the way."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_save_that_fails_in_the_background_shows_at_the_next_wait(copy, capfd):
    large = state_at(8).replace(params={"noise": jax.random.normal(jax.random.key(0), 10**6)})
    with Checkpoints(copy, create=True) as checkpoints:
        with small_files_only(10**5):
            checkpoints.save(large, Config())
            with pytest.raises(InputError, match=r"checkpoints/8: cannot be saved \(.*File too large.*\); see whether"):
                checkpoints.wait()
        checkpoints.wait()  # Told once.
        assert newest_whole(copy) == (6, ()) and not capfd.readouterr().err
        checkpoints.save(large, Config())
    assert names(copy) == ["2", "4", "6", "8"] and newest_whole(copy) == (8, ())


# --- the same run


def test_settings_that_a_run_may_not_go_on_with():
    config = load_config(CONFIG)
    changed = [("train.seed", 3), ("optim.betas", (0.8, 0.9)), ("init.model", "x.pth"), ("train.steps", 1)]
    with pytest.raises(InputError) as error:
        require_same_run(config, with_changes(config, changed), "runs/x")
    assert str(error.value) == (
        'runs/x: is a run with optim.betas [0.9, 0.999], not [0.8, 0.9], init.model "", not "x.pth", train.steps 450, '
        "not 1, train.seed 0, not 3; give --optim.betas 0.9 0.999 --init.model '' --train.steps 450 --train.seed 0 "
        "to go on, or another --workdir"
    )


@pytest.mark.parametrize(
    ("encoder", "instead"), [("", ""), ("none", ""), ("mit_b1.pth", " in place of --init.encoder")]
)
def test_more_steps_name_the_command_that_makes_them(encoder, instead):
    """The schedule falls to 0 with the steps that a run has."""
    config = with_changes(load_config(CONFIG), [("init.encoder", encoder)])
    with pytest.raises(InputError) as error:
        require_same_run(config, with_changes(config, [("train.steps", 900)]), "runs/x")
    assert error.value.remedy.startswith(
        f"give --train.steps 450 to go on, or another --workdir: --init.model runs/x{instead} --workdir NEW trains on"
    )


def another(name, value):
    """A value of a setting that is not this one, of the same type."""
    of_model = {"name": "cffm_b2", "blocks": 3, "global_blocks": 3, "receptive": (7, 5, 3), "pooling": (7, 5, 3)}
    of_model |= {
        "norm_epsilons": (1e-3, 1e-3),
        "depths": (3, 3, 3, 3),
        "projection": "normalised",
        "width": 264,
        "dtype": "bfloat16",
        "references": "self",
        "pooling_rule": "release",
        "halo": 2,
        "pooling_form": "full",
        "target_pooling": 5,
        "mining": "positions",
        "form": "vspw",
        "flow": "raft_small",
        "warp": "exact",
        "memory": "first",
    }
    if name == "eval.references":
        return "following"
    if name.startswith("model.") and name[6:] in of_model:
        return of_model[name[6:]]
    if isinstance(value, bool | str):
        return {bool: not value, str: "other"}[type(value)]
    if isinstance(value, float):
        return value / 2 or 0.5
    if name == "data.channels":
        return ("nir", "red", "green")
    return tuple(1 + number for number in value) or (1.0,) if isinstance(value, tuple) else value + 1


def is_refused(require, *configs):
    try:
        require(*configs, "run")
    except InputError:
        return True
    return False


def test_settings_that_a_run_may_go_on_with():
    """Exactly those that are said to change nothing that it trains; likewise an evaluation with its weights."""
    config = with_changes(load_config(CONFIG), [("model.name", "cffmpp_b0"), ("model.pooling_rule", "paper")])
    config = with_changes(config, [("data.mean", (1.0, 2.0, 3.0)), ("data.std", (1.0, 2.0, 3.0))])
    for name, about in SETTINGS.items():
        value = another(name, values(config)[name])
        other = with_changes(config, [(name, value)])
        assert is_refused(require_same_run, config, other) == (about.changes == "training"), name
        of_weights = (name.startswith("model.") or about.of_weights) and not about.any_weights
        assert is_refused(require_same_model, config, other) == of_weights, name
        told = about.evaluated and about.changes != "nothing"
        assert changed_settings(config, other).get(name) == (value if told else None), name
    config = load_config(CONFIG)
    # What the backbone decides anyway is no difference, nor what has been stored as JSON, nor ImageNet's statistics.
    require_same_run(config, with_changes(config, [("data.mean", MEAN), ("data.std", STD)]), "run")
    require_same_run(config, with_changes(config, [("model.blocks", 1)]), "run")
    stored = json.loads(json.dumps(dataclasses.asdict(config)))
    require_same_run(settings.config_from_dict(stored, "run"), config, "run")
    assert config.model != ModelConfig()
