"""Where time goes, what devices can do, what is compiled, what a run's folder tells; with times and states by hand."""

import dataclasses
import json
import math
import os
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cffm_jax.checkpoints.state import TrainState
from cffm_jax.config import Config, ModelConfig, TrainConfig
from cffm_jax.drawing.palette import palette
from cffm_jax.evaluation.pictures import FrameStrips
from cffm_jax.inference.whole_videos import Chunk
from cffm_jax.models import macs
from cffm_jax.models.create import build_model
from cffm_jax.models.methods.frame_network import PER_FRAME as FRAME_ROW
from cffm_jax.runtime import xla
from cffm_jax.runtime.compiling import Compilations
from cffm_jax.training import provenance, setup, speed
from cffm_jax.training.log import RunLog, last_times
from cffm_jax.training.sharding import make_mesh
from cffm_jax.training.speed import Clock, Profile, Work, goodput, in_words, peak_flops, taken_up
from cffm_jax.training.step import next_state

from helpers.runs import ROOT

# --- goodput


@pytest.fixture
def now(monkeypatch):
    """A clock set by hand: now[0]."""
    now = [100.0]
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])
    return now


def test_what_no_cause_takes_is_productive(now):
    clock = Clock(90.0)
    clock.add("start", 10.0)
    with clock.spent("evaluation"):
        now[0] += 5
    with pytest.raises(KeyError), clock.spent("checkpoint"):
        now[0] += 2
        raise KeyError
    now[0] += 83
    seconds = clock.seconds()
    assert {name: value for name, value in seconds.items() if value} == {
        "wall": 100, "productive": 83, "start": 10, "evaluation": 5, "checkpoint": 2,
    }  # fmt: skip
    assert goodput(seconds) == 0.83
    assert in_words(seconds) == "goodput 83.0 % of 100 s; the rest: start 10.0 %, evaluation 5.0 %, checkpoint 2.0 %"


def test_steps_done_again_are_lost(now):
    last = {"wall": 50.0, "productive": 40.0, **dict.fromkeys(speed.CAUSES, 0.0), "compile": 10.0}
    kept = {**last, "wall": 35.0, "productive": 25.0}
    before = taken_up(last, kept)
    assert before == {**last, "productive": 25.0, "lost": 15.0}
    now[0] += 50
    seconds = Clock(100.0, before).seconds()
    assert (seconds["wall"], seconds["productive"], seconds["lost"], seconds["compile"]) == (100, 75, 15, 10)
    assert taken_up(last, None)["lost"] == 40  # Killed before its first checkpoint.
    assert taken_up(last, last) == last


def lines_of(workdir, group):
    entries = map(json.loads, (workdir / "log.jsonl").read_text().splitlines())
    return [entry for entry in entries if entry["group"] == group]


def test_a_line_without_steps_has_no_rates(now, tmp_path):
    """The clock restarts after the first step, and the wait for the next one's data is of its line."""
    with RunLog(tmp_path, 3, 0, 4) as log:
        log.restart_clock(1)
        log.waited(1.0)
        log.scalars(1, {"loss": 1.0, "rate": 0.1})
        now[0] += 4
        log.scalars(2, {"loss": 1.0, "rate": 0.1})
    first, second = lines_of(tmp_path, "train")
    assert (first["clips_per_second"], first["data_wait"]) == (0, 0)
    assert (second["clips_per_second"], second["data_wait"]) == (1, 0.25)


def test_the_log_tells_rates_and_goes_on_with_the_time(now, tmp_path, monkeypatch):
    options = {"work": Work(flops=6e12, peak=10e12)}
    with RunLog(tmp_path, 20, 0, 4, began=95.0, **options) as log:
        log.clock.add("start", 5.0)
        for step in (2, 4):
            now[0] += 3
            log.waited(1.0)
            log.scalars(step, {"loss": 1.0, "rate": 0.1})
    line = lines_of(tmp_path, "train")[0]
    assert line["clips_per_second"] == pytest.approx(8 / 3) and line["data_wait"] == pytest.approx(1 / 3)
    assert line["tflops"] == pytest.approx(4.0) and line["mfu"] == pytest.approx(0.4)
    time = lines_of(tmp_path, "time")[-1]
    assert (time["wall"], time["productive"], time["start"], time["data"]) == (11, 4, 5, 2)
    assert time["goodput"] == pytest.approx(4 / 11)
    # Killed and gone on from step 2: what came after it is lost, and known to be so from the first line on.
    with RunLog(tmp_path, 20, 2, 4, **options) as log:
        assert [(entry["step"], entry["lost"]) for entry in lines_of(tmp_path, "time")] == [(2, 0), (2, 2)]
        now[0] += 9
        log.finish(3, 1)
    last = last_times(tmp_path)
    assert last == lines_of(tmp_path, "time")[-1] and "step_bytes" not in last
    assert (last["wall"], last["lost"], last["productive"], last["compilations"]) == (20, 2, 11, 1)
    with RunLog(tmp_path, 20, 3, 4) as log:
        now[0] += 1
        log.scalars(4, {"loss": 1.0, "rate": 0.1})
    assert not {"mfu", "tflops"} & lines_of(tmp_path, "train")[-1].keys()


def test_rates_are_of_the_time_that_steps_were_done(now, tmp_path):
    """On CPUs a line is written when the step after it is done too."""
    with RunLog(tmp_path, 20, 0, 4) as log:
        for step in (1, 2, 3):
            now[0] += 2
            log.sent(step, np.zeros(()).view(Done))
            log.done()
        for step in (2, 3):
            log.scalars(step, {"loss": 1.0, "rate": 0.1})
    assert [line["clips_per_second"] for line in lines_of(tmp_path, "train")] == [2, 2]


class Done(np.ndarray):
    def is_ready(self):
        return True

    def block_until_ready(self):
        return self


def test_steps_count_when_they_are_done_and_not_when_they_are_sent(tmp_path):
    done = []

    class Figure:
        def __init__(self, step):
            self.step = step

        def is_ready(self):
            return self.step in done

        def block_until_ready(self):
            done.append(self.step)
            counted.append(log._bar.n)

    counted = []
    with RunLog(tmp_path, 20, 4, 1) as log:
        for step in range(5, 11):
            log.sent(step, Figure(step))
        log.done()
        assert log._bar.n == 4
        done += [5, 6, 8]  # 8 on another device: after 7.
        log.done()
        assert log._bar.n == 6 and counted == [4, 5]
        log.done(9)  # A line of figures waits for 9, while 10 is computed: the bar moves with each.
        assert log._bar.n == 9 and counted == [4, 5, 6, 7, 8] and 10 not in done


# --- MFU


@pytest.mark.parametrize(
    ("kind", "dtype", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312),
        ("NVIDIA A100 80GB PCIe", "float32", 156),
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989.5),
        ("NVIDIA H100 PCIe", "bfloat16", 756),
        ("NVIDIA H200", "float32", 494.5),
        ("NVIDIA L4", "bfloat16", 121),
        ("NVIDIA L40S", "bfloat16", 362),
        ("NVIDIA GeForce RTX 4090", "bfloat16", 165.2),
        ("Tesla V100-SXM2-16GB", "float32", 15.7),
        ("Tesla V100-SXM2-16GB", "bfloat16", 0),
        ("Tesla T4", "float32", 8.1),
        ("NVIDIA RTX A6000", "float32", 77.4),
        ("NVIDIA A4000", "float32", 0),
        ("NVIDIA A100X", "float32", 0),
        ("NVIDIA L40", "float32", 0),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "float32", 0),
        ("NVIDIA GeForce RTX 3090 Ti", "float32", 0),
        ("cpu", "float32", 0),
    ],
)
def test_peaks_are_those_of_the_device_or_none(kind, dtype, tflops):
    assert peak_flops(kind, dtype) == pytest.approx(1e12 * tflops)


def test_a_peak_is_that_of_the_precision_in_use():
    assert peak_flops("NVIDIA H200", "float32", "highest") == 0
    assert peak_flops("NVIDIA H200", "bfloat16", "highest") > 0


def test_the_work_of_a_step():
    config = dataclasses.replace(Config(), train=TrainConfig(batch_size=8, peak_tflops=2.0))
    work = setup.work_of_a_step(config, build_model(config.model), make_mesh(4), 8)
    assert work == (8 * macs.training_flops(build_model(config.model), 480, 480), 8e12)
    config = dataclasses.replace(config, train=TrainConfig(batch_size=8))
    assert setup.work_of_a_step(config, build_model(config.model), make_mesh(4), 8).peak == 0  # A CPU.


def test_the_work_of_single_frames():
    """A clip of SegFormer's is four frames."""
    config = dataclasses.replace(Config(), model=ModelConfig("segformer_b0", 19))
    model = build_model(config.model)
    clips = setup.work_of_a_step(config, model, make_mesh(1), 2).flops
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, samples="frames"))
    assert setup.work_of_a_step(config, model, make_mesh(1), 8).flops == clips > 0


# --- compilations, profile


def test_compilations_are_counted():
    @jax.jit
    def double(x):
        return x + x

    values = [np.ones(n, np.float32) for n in (3, 3, 5)]
    double(values[0])
    with Compilations() as compilations:
        counts = []
        for value in values:
            double(value)
            counts.append(compilations.count)
    assert counts == [0, 0, 1]
    double(np.ones(7, np.float32))
    assert compilations.count == 1


@pytest.mark.parametrize(("last", "told"), [(2, "no profile: it begins with step 13"), (4, "steps 13 to 14")])
def test_a_profile_of_a_run_that_is_short(tmp_path, last, told):
    said = []
    profile = Profile(tmp_path / "profile", 10, said.append)
    for step in range(11, 11 + last):
        with profile.step(step):
            value = jnp.ones(3) + step
        profile.after(step, value)
    profile.close(10 + last)
    assert len(said) == 1 and told in said[0]
    assert bool(list(tmp_path.glob("profile/plugins/profile/*/*.trace.json.gz"))) == (last > 2)


# --- averages


def test_the_average_is_the_formula_and_knows_no_bad_steps():
    """By hand: after each applied step ema * average + (1 - ema) * parameters, of what is trained alone."""
    decay, rng = 0.9, np.random.default_rng(0)
    params = {"trained": jnp.float32(rng.normal(size=3)), "frozen": jnp.ones(2)}
    zero = jnp.int32(0)
    state = TrainState(zero, params, {}, optax.EmptyState(), zero, zero, {"trained": params["trained"]})
    expected = np.float64(params["trained"])
    for finite in (True, False, True, True):
        new = {"trained": jnp.float32(rng.normal(size=3) if finite else np.full(3, np.nan)), "frozen": jnp.ones(2)}
        state = next_state(state, jnp.bool_(finite), new, {}, optax.EmptyState(), 10, decay)
        if finite:
            expected = decay * expected + (1 - decay) * np.float64(new["trained"])
    np.testing.assert_allclose(state.ema["trained"], expected, rtol=1e-6)
    np.testing.assert_array_equal(state.averaged["params"]["trained"], state.ema["trained"])
    np.testing.assert_array_equal(state.variables["params"]["trained"], new["trained"])
    assert state.averaged["params"].keys() == params.keys()


# --- what is known of a run


def test_a_start_is_described(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"{os.environ['XLA_FLAGS']} {xla.DETERMINISTIC}")
    monkeypatch.setattr(sys, "argv", ["train.py", "--config", "a b.py"])
    for start in (0, 5):
        provenance.write(tmp_path, Config(), start, jax.devices()[:2])
    first, second = map(json.loads, (tmp_path / provenance.NAME).read_text().splitlines())
    assert (first["start_step"], second["start_step"]) == (0, 5)
    assert first["command"] == "train.py --config 'a b.py'" and first["deterministic"]
    assert first["config"] == json.loads(json.dumps(dataclasses.asdict(Config())))
    assert first["versions"]["jax"] == jax.__version__ and first["versions"]["python"] == sys.version.split()[0]
    assert first["devices"]["kinds"] == ["cpu"] and first["devices"]["count"] == 2
    assert first["seeds"] == {"train.seed": 0, "prototypes.seed": 0}
    assert xla.DETERMINISTIC in first["environment"]["XLA_FLAGS"]


def test_the_state_of_a_checkout(tmp_path, monkeypatch):
    def git(*arguments):
        settings = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        command = ["git", "-C", str(tmp_path), *settings, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert provenance.git_state(tmp_path) is None  # None is there.
    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-qm", "a")
    assert provenance.git_state(tmp_path) == {"commit": git("rev-parse", "HEAD"), "changed": False}
    (tmp_path / "a").write_text("2")
    assert provenance.git_state(tmp_path)["changed"]
    (tmp_path / "b").mkdir()
    assert provenance.git_state(tmp_path / "b") is None  # Somebody else's repository.
    monkeypatch.setenv("PATH", "")
    assert provenance.git_state(tmp_path) is None


def test_the_flag_of_bitwise_runs(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--a=b --xla_gpu_deterministic_ops=false")
    xla.require_determinism()
    flags = os.environ["XLA_FLAGS"].split()
    # Untuned products of Triton do not all compile.
    assert flags == ["--a=b", xla.DETERMINISTIC, "--xla_gpu_enable_triton_gemm=false"]
    monkeypatch.delenv("XLA_FLAGS")
    xla.require_determinism()
    program = "import jax; print(jax.numpy.ones(2).sum())"  # A flag that XLA does not know ends the process.
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "2.0\n"), done.stderr


# --- pictures


def test_pictures_of_the_same_frames(tmp_path, monkeypatch):
    size, masks = (32, 48), {"CFFM++": 2, "CFFM": 1, FRAME_ROW: 0}
    monkeypatch.setattr(
        "cffm_jax.data.decode.read_frame", lambda path, channels: np.full((*size, 3), int(path), np.uint8)
    )
    videos = [
        types.SimpleNamespace(name=f"v{i}", frames=tuple(map(str, range(12))), sparse=False, targets=tuple(range(12)))
        for i in range(5)
    ]
    strips = FrameStrips(videos, palette(8), count=2, first=9)
    for video in videos:
        for start in (0, 8):
            n = min(8, 12 - start)
            labels = np.full((n, *size), 3, np.uint8)
            each = {row: np.full((n, *size), k, np.uint8) for row, k in masks.items()}
            strips(Chunk(video, start, labels, each))
    assert list(strips.pictures) == ["v0/11", "v4/11"]
    picture = strips.pictures["v0/11"]
    assert picture.dtype == np.uint8 and picture.shape[1] == 5 * 96 + 4 * 4  # Small ones twice as large.
    with RunLog(tmp_path, 5, 0, 1) as log:
        log.evaluation(3, {"CFFM/miou": math.nan}, "", strips.pictures)
    events = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").iterdir())
    assert events.count(b"eval/v0/11") == 1 and events.count(b"\x89PNG") == 2
