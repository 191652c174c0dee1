"""Evaluations over several devices and processes: who gets which video, the same figures and files, one end for all."""

import dataclasses
import functools
import json
import shutil
import signal
import threading
import time
import zipfile

import jax
import numpy as np
import optax
import pytest

from cffm_jax.checkpoints.store import Checkpoints
from cffm_jax.config import EvalConfig
from cffm_jax.data.layouts.video import Video
from cffm_jax.data.layouts.vspw import CODING
from cffm_jax.errors import InputError, Stopped
from cffm_jax.evaluation.sharing import chosen_devices, shares
from cffm_jax.models.create import build_model
from cffm_jax.models.variables import init_variables
from cffm_jax.runtime.jobs import run_together
from cffm_jax.runtime.signals import Interruption
from cffm_jax.settings import load_config
from cffm_jax.training.sharding import init_state, make_mesh

from helpers.runs import CONFIG, DEPTHS, SIZE, Refusal, address, ended, place, started_with

pytestmark = pytest.mark.long

LENGTHS = (5, 18, 1, 17, 9)

EVAL = """
import sys
from cffm_jax.commands.eval import eval_command
from cffm_jax.runtime.command_line import run_command
if __name__ == "__main__":
    sys.exit(run_command(eval_command))
"""

# Two processes at work until something ends them: argv is what, where, which, and the folder.
WORK = """
import sys, time
from cffm_jax.runtime.cluster import connected
from cffm_jax.config import ClusterConfig
from cffm_jax.errors import InputError
from cffm_jax.runtime.jobs import run_together
from cffm_jax.runtime import shared_folder
from cffm_jax.runtime.command_line import run_command
from cffm_jax.runtime.signals import Interruption

def main(argv):
    what, where, process, folder = argv
    shared_folder._LOOKS = 2
    if what == "elsewhere" and process == "1":
        folder += ".other"
    def work(stop):
        if what == "error" and process == "1":
            raise InputError("file", "is bad", "mend it")
        print("working", flush=True)
        stop.wait()
    with Interruption() as interruption, connected(ClusterConfig(where, 2, int(process), connect_seconds=60)):
        with interruption.agreeing(True), shared_folder.SharedFolder(folder) as shared:
            with shared.writing() as root:
                (root / process).touch()
            run_together([work] * (1 + int(process)), interruption)

if __name__ == "__main__":
    sys.exit(run_command(main))
"""


# --- shares


def test_shares_are_even_and_hold_every_video_once():
    lengths = np.random.default_rng(0).integers(1, 100, 50)
    videos = [Video(f"v{i}", ("frame",) * n, (), CODING) for i, n in enumerate(lengths)]
    found = shares(videos, (1, 4, 2))
    assert [len(process) for process in found] == [1, 4, 2]
    devices = [share for process in found for share in process]
    assert sorted(video.name for share in devices for video in share) == sorted(video.name for video in videos)
    assert all(list(share) == sorted(share, key=videos.index) for share in devices)
    frames = [sum(len(video.frames) for video in share) for share in devices]
    assert max(frames) < 1.02 * min(frames)
    assert shares(videos[:1], (1, 1)) == [[(videos[0],)], [()]] and shares([], (2,)) == [[(), ()]]


def test_the_frames_that_are_segmented_count():
    sparse = [Video(f"v{i}", ("frame",) * 30, (*[None] * 19, "mask", *[None] * 10), CODING) for i in range(4)]
    whole = Video("whole", ("frame",) * 3, ("mask",) * 3, CODING)
    assert [len(share) for share in shares([*sparse, whole], (2,))[0]] == [2, 3]


def test_chosen_devices():
    assert chosen_devices(0, jax.devices()) == tuple(jax.devices()) and len(chosen_devices(3, jax.devices())) == 3
    for number in (-1, len(jax.devices()) + 1):
        with pytest.raises(InputError, match=f"--eval.devices: {number} asked for"):
            chosen_devices(number, jax.devices())


# --- one end


def test_the_results_are_in_the_order_of_the_jobs():
    jobs = [lambda stop, i=i: time.sleep(0.05 * (3 - i)) or i for i in range(3)]
    assert run_together(jobs) == [0, 1, 2] and run_together([]) == []


def test_an_error_of_one_job_ends_the_others():
    seen = []

    def works(stop):
        seen.append(stop.wait(30))

    def fails(error, stop):
        raise error

    with pytest.raises(InputError, match="file: is bad"):
        run_together([works, functools.partial(fails, InputError("file", "is bad", "mend it"))])
    with pytest.raises(ZeroDivisionError):
        run_together([works, functools.partial(fails, ZeroDivisionError())])
    assert seen == [True, True]


def test_a_signal_ends_the_jobs():
    with Interruption() as interruption:
        timer = threading.Timer(0.2, signal.raise_signal, (signal.SIGTERM,))
        timer.start()
        with pytest.raises(Stopped, match="SIGTERM") as stopped:
            run_together([lambda stop: stop.wait(30)], interruption)
        timer.join()
    assert stopped.value.everywhere and stopped.value.status == 143


@pytest.mark.parametrize("what", ["signal", "error", "elsewhere"])
def test_two_processes_end_together(what, tmp_path):
    where, folder = address(), tmp_path / "new" / "folder"
    two = [started_with(1, WORK, what, where, process, folder) for process in (0, 1)]
    if what == "signal":
        assert any("working" in line for line in two[1].stdout)  # After Gloo's lines; its two threads may share one.
        two[1].send_signal(signal.SIGTERM)  # One alone.
    (zero, _, told), (one, _, silent) = ended(two)
    expected = 143 if what == "signal" else 2
    assert (zero, one) == (expected, expected), told + silent
    assert not silent and not list(tmp_path.iterdir())
    if what == "elsewhere":
        Refusal.check(zero, told, folder, "process 1 does not see", "all processes share")
    else:
        assert told.strip() == {"signal": "stopped by SIGTERM", "error": "error: file: is bad; mend it"}[what]


# --- the command


@pytest.fixture(scope="module")
def split(data, tmp_path_factory):
    """Videos of several lengths, and the same as a test split without masks."""
    root = tmp_path_factory.mktemp("split")
    source = data / "data" / "train_0000"
    for number, length in enumerate(LENGTHS):
        for kind in ("origin", "mask"):
            folder = root / "data" / f"v{number}" / kind
            folder.mkdir(parents=True)
            for path in sorted((source / kind).iterdir())[18 - length :]:
                shutil.copy(path, folder)
        (shutil.copytree(root / "data" / f"v{number}" / "origin", root / "data" / f"t{number}" / "origin"))
    for name, letter in (("val", "v"), ("test", "t")):
        (root / f"{name}.txt").write_text("".join(f"{letter}{number}\n" for number in range(len(LENGTHS))))
    shutil.copy(data / "classes.json", root)
    return root


@pytest.fixture(scope="module")
def checkpoint(split, tmp_path_factory):
    """A run's folder with large random weights of the smallest network."""
    config = load_config(CONFIG)
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, root=str(split), frame_size=SIZE),
        model=dataclasses.replace(config.model, blocks=1, depths=DEPTHS),
        eval=EvalConfig(chunk=4),
    )
    model = build_model(config.model)
    variables = jax.device_get(init_variables(model, jax.random.key(0)))
    params = jax.tree.map(lambda x: 5 * x if x.ndim > 1 else x, variables["params"])
    state = init_state(model, {**variables, "params": params}, optax.sgd(1.0), make_mesh(1))
    folder = tmp_path_factory.mktemp("run")
    with Checkpoints(folder, create=True) as checkpoints:
        checkpoints.save(state.replace(step=jax.numpy.int32(7)), config)
        checkpoints.wait()
    return folder


def argv(checkpoint, folder):
    more = (part for name in ("save_predictions", "pictures", "report") for part in (f"--{name}", folder / name))
    return ["--checkpoint", checkpoint, "--output", folder / "eval.json", *more]


def succeeded(*processes):
    for status, _, err in (said := ended(processes)):
        assert status == 0, err
    return said


@pytest.fixture(scope="module")
def alone(checkpoint, tmp_path_factory):
    """What one device of one process writes."""
    folder = tmp_path_factory.mktemp("alone")
    succeeded(started_with(1, EVAL, *argv(checkpoint, folder)))
    return folder


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("processes", [1, 2])
def test_several_devices_and_processes_write_what_one_does(checkpoint, alone, tmp_path, processes):
    where = address()
    places = [place(where, process) for process in range(processes)] if processes > 1 else [()]
    devices = 3 - processes
    said = succeeded(*(started_with(devices, EVAL, *argv(checkpoint, tmp_path), *its) for its in places))
    assert "mIoU" in said[0][1] and not any("mIoU" in out for _, out, _ in said[1:])
    found, expected = files(tmp_path), files(alone)
    assert found.keys() == expected.keys() and len(expected) == 4 + sum(LENGTHS)
    # The page has the paths; the video's header has the time it was made at, if it has any.
    differ = [str(path) for path in expected if found[path] != expected[path]]
    assert set(differ) <= {"report/index.html"}, differ
    rows = json.loads(found[next(path for path in found if path.name == "eval.json")])["rows"]
    assert [video["frames"] for video in rows["CFFM"]["per_video"]] == list(LENGTHS)
    assert len(set(rows["CFFM"]["per_video"][1].values())) > 3


def test_two_processes_make_one_submission(checkpoint, alone, tmp_path):
    where = address()
    more = ("--checkpoint", checkpoint, "--submission", tmp_path / "masks.zip")
    said = succeeded(*(started_with(1, EVAL, *more, *place(where, process)) for process in (0, 1)))
    assert f"{sum(LENGTHS)} masks of 5 videos" in said[0][1]
    assert [path.name for path in tmp_path.iterdir()] == ["masks.zip"] and not (checkpoint / "eval.json").exists()
    with zipfile.ZipFile(tmp_path / "masks.zip") as file:
        names = file.namelist()
    masks = (path.relative_to(alone / "save_predictions") for path in alone.glob("save_predictions/*/*.png"))
    assert names == sorted(f"t{str(path)[1:]}" for path in masks)
