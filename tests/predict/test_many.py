"""Many videos in one command: which are meant, what is written, what is left out, and who does what."""

import csv
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cffm_jax.commands.predict import predict_command
from cffm_jax.config import ClusterConfig
from cffm_jax.errors import InputError
from cffm_jax.media.many import several_videos
from cffm_jax.predict.many import predict_many
from cffm_jax.predict.predictor import Predictor
from cffm_jax.predict.request import Request
from cffm_jax.predict.workers import core_shares
from cffm_jax.predict.writers import OutputFolder
from cffm_jax.runtime.balance import balanced
from cffm_jax.runtime.cluster import share_of
from cffm_jax.runtime.command_line import run_command

from helpers.films import Network, film, picture, spoilt_at
from helpers.runs import ROOT, files, finished
from helpers.runs import started as started_command

PLAIN = ("--no-overlay", "--checkpoint", "none")


@pytest.fixture(autouse=True)
def loaded(monkeypatch):
    """The paths of the weights that were loaded; a stand-in is, and in this process alone."""
    paths = []
    monkeypatch.setattr("cffm_jax.predict.many.core_shares", lambda jobs: [])
    monkeypatch.setattr("cffm_jax.inference.load.load", lambda path: paths.append(path) or Network())
    return paths


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """videos/ with a/1.mp4, a/2.mkv, b/1.mp4 and 0.mp4, of 5, 4, 3 and 6 frames."""
    root = tmp_path_factory.mktemp("many") / "videos"
    for name, count in {"a/1.mp4": 5, "a/2.mkv": 4, "b/1.mp4": 3, "0.mp4": 6}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        film(root / name, count, pictures=[picture(number=i + len(name)) for i in range(count)])
    return root


NAMES = {"0": 6, "a/1": 5, "a/2": 4, "b/1": 3}


def run(*argv):
    return run_command(predict_command, [*map(str, argv), *PLAIN])


def masks_of(folder):
    return {path.stem: np.asarray(Image.open(path)) for path in sorted((folder / "masks").iterdir())}


def contents(folder):
    """Of the masks and the shares of classes below."""
    return {
        path.relative_to(folder): path.read_bytes() for end in ("0*.png", "shares.csv") for path in folder.rglob(end)
    }


def failed(folder):
    return list(csv.DictReader((folder / "failed.csv").read_text(encoding="utf-8").splitlines()))


# --- which videos are meant


def found(*inputs):
    return {video.name: Path(video.path).name for video in several_videos([str(each) for each in inputs])}


def test_a_folder_a_pattern_a_list_and_arguments_name_the_same(tree, tmp_path):
    """Videos of one name in different folders keep apart."""
    everything = {name: f"{Path(name).name}.{'mkv' if name == 'a/2' else 'mp4'}" for name in NAMES}
    assert found(tree) == found(f"{tree}/**/*.m*") == everything
    assert found(f"{tree}/*/1.mp4") == {"a/1": "1.mp4", "b/1": "1.mp4"}
    named = tmp_path / "list.txt"
    named.write_text("".join(f"{path}\n" for path in sorted(tree.rglob("*.m*"))) + "\n")
    assert found(named) == everything
    beside = tree / "list.txt"
    beside.write_text("a/1.mp4\r\nb/1.mp4\n")
    assert found(beside) == {"a/1": "1.mp4", "b/1": "1.mp4"}
    beside.write_text("a\nb/*.mp4\n0.*\n", encoding="utf-8-sig")  # As of Windows' editors.
    assert found(beside) == everything
    beside.unlink()
    assert found(tree / "a", tree / "0.mp4") == {"1": "1.mp4", "2": "2.mkv", "0": "0.mp4"}


def test_folders_of_frames_are_videos_among_others(tree, tmp_path, capfd):
    """A folder is not searched for them: of a dataset its masks would be videos too. Names of folders have no end."""
    names = {"frames/cam.1": "cam.1", "frames/2": "2"}
    for name in names:
        (tmp_path / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(picture(number=i)).save(tmp_path / name / f"{i}.png")
    (tmp_path / "frames" / "none").mkdir()
    each = {"2": "2", "cam.1": "cam.1"}
    assert found(f"{tmp_path}/frames/*") == found(tmp_path / "frames/cam.1", f"{tmp_path}/frames/2/") == each
    assert found(tmp_path / "frames/2", tree / "0.mp4") == {"2": "2", "0": "0.mp4"}
    assert found(f"{tmp_path}/frames/c*") == {"cam.1": "cam.1"} and not found(tmp_path / "frames/2")
    (tmp_path / "list.txt").write_text(f"frames/2/\nframes/cam*\n{tree}/b/*.mp4\n")
    assert run(tmp_path / "list.txt", "--output", tmp_path / "out") == 0
    assert "3 videos, 9 frames" in capfd.readouterr().out
    assert run(tmp_path / "frames/2", tmp_path / "frames/cam.1", "--output", tmp_path / "two") == 0
    assert "warning" not in capfd.readouterr().err
    assert run(tmp_path / "frames", "--output", tmp_path / "no") == 2
    assert "of several folders of frames a pattern in quotes" in capfd.readouterr().err


def test_a_pattern_takes_videos_and_folders_of_frames_together(tree, tmp_path, capfd, refused):
    """What is neither is told, whichever way the pattern is given."""
    mixed, out = tmp_path / "mixed", tmp_path / "out"
    (mixed / "x").mkdir(parents=True)
    (mixed / "empty").mkdir()
    Image.fromarray(picture()).save(mixed / "x" / "0.png")
    assert found(f"{mixed}/*") == {"x": "x"} and not found(f"{mixed}/**/*")  # Images in folders are one input.
    (mixed / "README").touch()
    assert found(f"{mixed}/*") == found(f"{mixed}/*/") == {"x": "x"}
    os.link(tree / "0.mp4", mixed / "a.mkv")
    assert found(f"{mixed}/*") == found(f"{mixed}/**/*") == {"a": "a.mkv", "x": "x"}
    assert found(f"{mixed}/[aR]*") == {"a": "a.mkv"} and not found(f"{mixed}/a*")
    (tmp_path / "list.txt").write_text("mixed/*\n")
    for name in (f"{mixed}/*", f"{mixed}/**/*", tmp_path / "list.txt"):
        assert run(name, "--output", out) == 0
        said = capfd.readouterr().err
        assert f"{name}: left out, as no videos: 1 no suffix, such as {mixed}/README\n" in said and ".png" not in said
    assert sorted(path.name for path in out.iterdir()) == ["a", "x"]
    (mixed / "a.mkv").rename(mixed / "cover.png")
    said = f"{mixed}/*: fits images, and folders of others, such as {mixed}/x; end it with a /"
    refused(predict_command, [f"{mixed}/*", *PLAIN], said)
    assert not found(f"{mixed}/*.png") and not found(f"{mixed}/**")


def test_what_is_one_input(tree, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    os.link(tree / "0.mp4", tmp_path / "b.mp4")
    (tmp_path / "alone").mkdir()
    os.link(tree / "0.mp4", tmp_path / "alone" / "c.mp4")
    assert not found(tree / "0.mp4") and not found("-") and not found("0") and not found(tmp_path)
    assert not found(tmp_path / "a.jpg", tmp_path / "x.jpg") and not found(f"{tree}/0.*")
    assert found(tmp_path / "alone") == {"c": "c.mp4"}


def test_lists_and_names_that_do_not_fit(tree, tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    film(tmp_path / "1.mp4", 1)
    (tmp_path / "nested" / "a").mkdir(parents=True)
    for name in ("a.mp4", "a/1.mp4"):
        os.link(tree / "0.mp4", tmp_path / "nested" / name)
    (tmp_path / "wide.txt").write_text("a.mp4\n", encoding="utf-16")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "2.mp4").symlink_to(tree / "0.mp4")
    os.link(tree / "0.mp4", tmp_path / "links" / "1.mp4")
    (tmp_path / "links" / "3.mp4").symlink_to("1.mp4")
    (tmp_path / "f").mkdir()
    Image.fromarray(picture()).save(tmp_path / "f" / "0.png")
    for name, text in {"images": "1.mp4\nf/*.png\n", "none": "1.mp4\nz*\n", "slash": "f\nf/\n"}.items():
        (tmp_path / f"{name}.txt").write_text(text)
    for inputs, said in (
        ([tree, tmp_path / "notes.md"], "notes.md: is no video, and of several inputs each is one; name videos alone"),
        ([tree / "0.mp4", tree], "0.mp4: is named twice"),
        ([tree / "a", tmp_path / "1.mp4"], f"1.mp4: has the name of {tree}/a/1.mp4, and each video gets a folder"),
        ([tmp_path / "nested"], "a/1.mp4: would lie in the folder of .*a.mp4, as each video gets one of its name"),
        ([tmp_path / "empty.txt"], "empty.txt: names no video; write a path into each line"),
        ([tmp_path / "wide.txt"], "wide.txt: is no text in UTF-8; save it as UTF-8"),
        ([tmp_path / "images.txt"], r"images.txt: names .*f/\*.png, which fits no video and no folder of images"),
        ([tmp_path / "none.txt"], r"none.txt: names .*z\*, which fits no video and no folder of images"),
        ([tmp_path / "slash.txt"], "f/: is the same video as .*/f; name it once"),
        ([tmp_path / "links"], "3.mp4: is the same video as .*links/1.mp4; name it once, or take one of the links"),
    ):
        with pytest.raises(InputError, match=said):
            found(*inputs)


def test_predictions_that_lie_among_the_videos_are_none(tree, tmp_path, capfd):
    """Nor is what a folder holds besides, which is told; links to folders are followed."""
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "link").symlink_to(tree)
    (videos / "notes.vob").write_bytes(b"")
    for _ in range(2):
        assert (
            run_command(predict_command, [*map(str, (videos, "--output", videos / "masks", "--checkpoint", "none"))])
            == 0
        )
    said = capfd.readouterr()
    assert (videos / "masks" / "link" / "a" / "1" / "overlay.mp4").exists()
    assert said.out.splitlines()[-1].endswith("0 videos, 0 frames, 4 were there") and "1 .vob" in said.err
    assert not any("overlay" in name for name in found(f"{videos}/**/*.m*"))


# --- what is written


@pytest.mark.parametrize("jobs", [1, 3])
def test_each_is_segmented_as_by_itself(tree, tmp_path, capfd, loaded, jobs):
    """The weights are loaded once; the bar is one for all."""
    assert run(tree, "--output", tmp_path / "out", "--jobs", jobs) == 0
    said = capfd.readouterr()
    assert loaded == ["none"] and "4/4 videos" in said.err
    assert said.out.strip() == f"{tmp_path / 'out'}: 4 videos, 18 frames"
    for name, count in NAMES.items():
        path = next(tree.glob(f"{name}.*"))
        assert run(path, "--output", tmp_path / "alone" / name) == 0
        assert len(masks_of(tmp_path / "out" / name)) == count
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")
    assert not any(path.name.startswith(".") for path in files(tmp_path / "out"))


def test_what_is_there_is_left_as_it_is(tree, tmp_path, capfd):
    out = tmp_path / "out"
    assert run(tree / "a", "--output", out) == 0
    before = {path: path.stat().st_mtime_ns for path in files(out / "2")}
    capfd.readouterr()
    os.rename(out / "1", tmp_path / "kept")
    (out / "1").mkdir()  # An empty folder is none.
    assert run(tree / "a", "--output", out) == 0
    assert capfd.readouterr().out.strip() == f"{out}: 1 videos, 5 frames, 1 were there"
    assert {path: path.stat().st_mtime_ns for path in files(out / "2")} == before
    assert run(tree / "a", "--output", out, "--overwrite", "--masks", "npz") == 0
    assert (out / "1" / "masks.npz").exists() and not (out / "2" / "masks").exists()


def test_places_that_hold_something_else_are_refused_at_once(tree, tmp_path, refused):
    out = tmp_path / "out"
    assert run(tree / "a", "--output", out) == 0
    argv = [tree / "a", "--output", out, *PLAIN]
    refused(
        predict_command, [*argv, "--scores", "--every", 2], out, "with other settings (scores, every); give --overw"
    )
    (out / "1" / "prediction.json").unlink()
    refused(predict_command, argv, out / "1", "is there already; give --overwrite")
    refused(predict_command, [tree / "a", "--output", out / "2", *PLAIN], out / "2", "is the prediction of one input")


def test_one_that_fails_is_listed_and_the_others_go_on(tmp_path, capfd):
    """Mended it is taken at the next call, and the list goes."""
    folder, out = tmp_path / "films", tmp_path / "out"
    folder.mkdir()
    first, last = (film(folder / f"{name}.mp4", 12) for name in "az")
    whole = last.read_bytes()
    spoilt = spoilt_at(first, 5, 50).rename(folder / "b,\u00e4.mp4")
    (folder / "empty.mp4").write_bytes(b"")
    assert run(folder, "--refuse-damaged", "--output", out) == 1
    said = capfd.readouterr()
    assert f"{out}: 2 videos, 24 frames, 2 failed, see failed.csv" in said.out
    assert said.err.count("warning: ") == 2 and "Traceback" not in said.err
    rows = failed(out)
    assert [row["video"] for row in rows] == [str(spoilt), str(folder / "empty.mp4")]
    assert all(row["error"].startswith(f"{row['video']}: ") and "; " in row["error"] for row in rows)
    assert rows[1]["error"].endswith("empty.mp4: is empty; copy it again")
    assert sorted(path.name for path in out.iterdir()) == ["a", "failed.csv", "z"]
    spoilt.write_bytes(whole)
    assert run(folder, "--refuse-damaged", "--output", out) == 1
    assert [row["video"] for row in failed(out)] == [str(folder / "empty.mp4")]
    (folder / "empty.mp4").write_bytes(whole)
    assert run(folder, "--refuse-damaged", "--output", out) == 0
    assert sorted(path.name for path in out.iterdir()) == ["a", "b,\u00e4", "empty", "z"]


def test_what_is_wrong_with_more_than_a_video_ends_the_run(tree, tmp_path, refused, monkeypatch):
    refused(predict_command, [tree, "--output", tmp_path / "out", *PLAIN, "--classes", "horse"], "'horse' is no class")
    (tmp_path / "out").write_text("")
    refused(predict_command, [tree, "--output", tmp_path / "out", *PLAIN], tmp_path / "out", progress=True)


def test_a_function_of_one_video(tree, tmp_path):
    """What others share out."""
    predictor = Predictor(Request(checkpoint="none", overlay=False))
    outcome = predictor(str(tree / "0.mp4"), str(tmp_path / "0"))
    assert (outcome.frames, outcome.error) == (6, "") and len(masks_of(tmp_path / "0")) == 6
    assert predictor(tree / "0.mp4", tmp_path / "0") == (str(tree / "0.mp4"), str(tmp_path / "0"), 0, "")
    with OutputFolder(str(tmp_path / "2")):
        assert "2: is in use by" in predictor(str(tree / "0.mp4"), str(tmp_path / "2")).error
    assert "nowhere.mp4: " in predictor("nowhere.mp4", str(tmp_path / "1")).error and not (tmp_path / "1").exists()


# --- who does what


def test_shares_are_balanced():
    sizes = [random.Random(0).random() ** 4 for _ in range(200)]
    for workers in (1, 3, 7):
        shares = balanced(sizes, workers)
        assert sorted(itertools.chain(*shares)) == list(range(200))
        loads = [sum(sizes[i] for i in share) for share in shares]
        assert max(loads) - min(loads) <= max(sizes)
    assert balanced([1.0], 3) == [[0], [], []]


ARRAY = {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in {"ID": 7, "MIN": 1, "STEP": 2, "COUNT": 5}.items()}
TASKS = {
    "SLURM_JOB_ID": "1",
    "SLURM_STEP_NODELIST": "n",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
}
POD = {"KUBERNETES_SERVICE_HOST": "k", "JOB_COMPLETION_INDEX": "4"}


@pytest.mark.parametrize(
    ("cluster", "environ", "share"),
    [
        ({}, {}, (0, 1)),
        ({"processes": 3, "process": 2}, {}, (2, 3)),
        ({"processes": 1}, {}, (0, 1)),
        ({}, ARRAY, (3, 5)),
        ({}, TASKS, (2, 4)),
        ({}, {**ARRAY, **TASKS}, (14, 20)),
        ({}, {"OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_RANK": "5"}, (5, 8)),
        ({"processes": 6}, POD, (4, 6)),
        ({"processes": 2, "process": 1}, {**ARRAY, **TASKS}, (1, 2)),
    ],
)
def test_schedulers_tell_the_share(cluster, environ, share):
    assert share_of(ClusterConfig(**cluster), environ) == share


@pytest.mark.parametrize(
    ("cluster", "environ", "said"),
    [
        ({"processes": 3}, {}, "--cluster.process: is missing"),
        ({"process": 1}, {}, "--cluster.processes: is missing"),
        ({}, POD, "--cluster.processes: is missing"),
        ({"processes": 2, "process": 2}, {}, "--cluster.process: is 2, of 2 processes; give 0..1"),
    ],
)
def test_shares_that_are_not_told(cluster, environ, said):
    with pytest.raises(InputError, match=said):
        share_of(ClusterConfig(**cluster), environ)


def test_processes_share_the_videos(tree, tmp_path):
    """No two do the same, and together they do all; a share is told."""
    videos = several_videos([str(tree)])
    request = Request(inputs=(str(tree),), checkpoint="none", output=str(tmp_path / "out"), overlay=False)
    done = []
    for process in range(3):
        before = {path.parent for path in (tmp_path / "out").rglob("prediction.json")}
        share = Request(**{**vars(request), "cluster": ClusterConfig(processes=3, process=process)})
        said, failed = predict_many(share, videos)
        after = {path.parent for path in (tmp_path / "out").rglob("prediction.json")}
        done.append(after - before)
        assert not failed and f"(process {process} of 3)" in said and f"{len(after - before)} videos" in said
    assert all(done) and sum(map(len, done)) == 4


def test_folders_of_frames_are_shared_by_what_is_in_them(tree, tmp_path, capfd):
    """Not by the folders' own sizes, which are all the same."""
    for name, count in {"long": 9, "a": 3, "b": 3, "c": 3}.items():
        (tmp_path / "frames" / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(picture(number=0)).save(tmp_path / "frames" / name / f"{i}.png")
        (tmp_path / "frames" / name / ".0.png").touch()
    for process, said in enumerate(("1 videos, 9 frames", "3 videos, 9 frames")):
        shares = "--cluster.processes", 2, "--cluster.process", process
        assert run(f"{tmp_path}/frames/*", "--output", tmp_path / "out", *shares) == 0
        assert said in capfd.readouterr().out


STAND_IN = """
import sys, time
sys.path.insert(0, "tests")
from helpers import films
import cffm_jax.inference.load
from cffm_jax.commands.predict import predict_command
from cffm_jax.predict import many
from cffm_jax.runtime.command_line import run_command

class Slow(films.Network):
    def predictions(self, frames, **options):
        for prediction in super().predictions(frames, **options):
            time.sleep(0.06)
            yield prediction

cffm_jax.inference.load.load = lambda path: Slow()
many.core_shares = lambda jobs: []
sys.exit(run_command(predict_command, sys.argv[1:]))
"""


def started(folder, out, process):
    argv = [folder, "--output", out, "--cluster.processes", 2, "--cluster.process", process, *PLAIN]
    command = [sys.executable, "-c", STAND_IN, *map(str, argv)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, text=True)


def done(out):
    return sum((out / str(i % 4) / str(i) / "prediction.json").exists() for i in range(60))


@pytest.mark.long
def test_runs_that_are_killed_go_on(tmp_path):
    """Two processes, killed or stopped five times at some moment: every mask is there once, as of an unbroken run."""
    folder, dice, stopped = tmp_path / "films", random.Random(3), 0
    for i in range(60):
        path = folder / str(i % 4) / f"{i}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        film(path, 5 + i % 4, pictures=[picture(number=i + j) for j in range(9)])
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run(folder, "--output", whole) == 0
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGKILL):
        there = len(list(out.rglob("prediction.json")))
        both = [started(folder, out, process) for process in range(2)]
        until = time.monotonic() + 120
        while done(out) < there + 4:
            assert time.monotonic() < until and any(each.poll() is None for each in both)
            time.sleep(0.02)
        time.sleep(dice.random() / 4)
        for each in both:
            each.send_signal(number)
        for each in both:
            _, err = each.communicate(timeout=60)
            # One may have done its share before.
            assert each.returncode in (0, 128 + number, -number) and "Traceback" not in err, err
            stopped += each.returncode != 0
        assert not (out / "failed.csv").exists()
    assert stopped >= 5
    both = [started(folder, out, process) for process in range(2)]
    for each in both:
        _, err = each.communicate(timeout=300)
        assert each.returncode == 0, err
    assert contents(out) == contents(whole)
    # One that was killed between its folder and its lock leaves the lock, which holds nobody up.
    assert not [path for path in out.rglob(".*") if path.suffix != ".lock"] and done(out) == 60


def test_cores_are_shared_out(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {7, 1, 2, 3, 4}, raising=False)
    assert core_shares(2) == [(1, 2), (3, 4, 7)] and core_shares(6) == [(1,), (2,), (3,), (4,), (7,)]
    assert not core_shares(1)
    monkeypatch.delattr(os, "sched_getaffinity")
    assert not core_shares(2)


@pytest.mark.long
def test_processes_on_cores_of_their_own(trained, tree, tmp_path):
    """As in one: masks, failures, what is wrong with the weights, and a signal."""
    videos = tmp_path / "videos"
    shutil.copytree(tree, videos)
    (videos / "broken.mp4").write_bytes(b"")
    argv = ["predict.py", videos, "--checkpoint", trained[0], "--no-overlay", "--frame-size", 64, 96]
    for jobs in (1, 2):
        status, out, err = finished(*argv, "--output", tmp_path / f"out{jobs}", "--jobs", jobs)
        assert status == 1 and "4 videos, 18 frames, 1 failed, see failed.csv" in out, err
        assert "5/5 videos" in err and "Traceback" not in err and "UserWarning" not in err
    assert contents(tmp_path / "out1") == contents(tmp_path / "out2")
    status, _, err = finished(*argv[:3], tmp_path / "none", "--output", tmp_path / "new", "--no-overlay")
    assert status == 2 and err.count("no such file or folder") == 1 and not (tmp_path / "new").exists(), err
    for i in range(80):
        shutil.copy(tree / "0.mp4", videos / f"more{i}.mp4")
    process = started_command(*argv, "--output", tmp_path / "out2", start_new_session=True)
    until = time.monotonic() + 120
    while not (tmp_path / "out2" / "more3").exists():
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # As a terminal does.
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT and "Traceback" not in err, err
    assert not [path for path in (tmp_path / "out2").rglob(".*") if path.name.endswith((".partial", ".lock"))]
