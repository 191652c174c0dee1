"""What ends a run before its time: signals and numbers gone bad. The loop is the real one, its network a line."""

import contextlib
import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cffm_jax.checkpoints.by_path import newest_whole
from cffm_jax.checkpoints.state import TrainState
from cffm_jax.checkpoints.store import Checkpoints
from cffm_jax.config import TrainConfig
from cffm_jax.errors import Stopped
from cffm_jax.metrics.all_metrics import METRICS
from cffm_jax.runtime import signals
from cffm_jax.runtime.command_line import run_command
from cffm_jax.settings import load_config
from cffm_jax.training import loop, setup
from cffm_jax.training.sharding import make_mesh, replicated
from cffm_jax.training.speed import CAUSES
from cffm_jax.training.step import next_state

from helpers.runs import CONFIG, ROOT, log_lines

STEPS = 12
BAD = 3
PLAN = TrainConfig(steps=STEPS, checkpoint_every=3, eval_every=4, log_every=5, keep=2, bad_steps=BAD, batch_size=1)
OPTIMIZER = optax.adam(0.1)


def line_state(ema=0.0):
    params = {"slope": jnp.ones(3), "offset": jnp.zeros(())}
    counts = (jnp.int32(0) for _ in range(3))
    average = jax.tree.map(jnp.copy, params) if ema else None
    state = TrainState(next(counts), params, {"mean": jnp.zeros(3)}, OPTIMIZER.init(params), *counts, average)
    return jax.device_put(state, replicated(make_mesh(1)))


def line_step(state, batch, key, ema=0.0):
    """Least squares; where the batch is not finite, neither are loss, gradients and statistics."""
    x = batch["x"] + 0.01 * jax.random.normal(jax.random.fold_in(key, state.step), (3,))

    def loss_of(params):
        return (params["slope"] @ x + params["offset"] - 2 * batch["x"].sum()) ** 2

    loss, grads = jax.value_and_grad(loss_of)(state.params)
    updates, opt_state = OPTIMIZER.update(grads, state.opt_state)
    statistics = {"mean": 0.9 * state.batch_stats["mean"] + 0.1 * x}
    norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    state = next_state(state, finite, optax.apply_updates(state.params, updates), statistics, opt_state, BAD, ema)
    return state, {"loss": loss, "gradient_norm": norm, **state.counters}


class Line:
    """Puts a line in the place of the network.

    Attributes:
      bad: steps whose batch is not finite.
      at: (when, step) -> what to do then; when: "waiting", "step" or "evaluation".
      reads: steps whose figures the host read off the device -> the step that was under way then.
    """

    def __init__(self):
        self.bad, self.at, self.reads = (), {}, {}
        self.jitted = jax.jit(line_step, donate_argnums=0, static_argnames="ema")
        self.ema, self.evaluated = 0.0, {}

    @contextlib.contextmanager
    def prepare(self, config):
        start, notes = setup.resume_step(config)
        self.ema = config.optim.ema
        state = line_state(self.ema)
        yield setup.Run(
            start, notes, state, self.step, lambda i: 0.1, jax.random.key(1), self.clips(start), None, (), "line"
        )

    def clips(self, start):
        for step in range(start + 1, STEPS + 1):
            self.call("waiting", step)
            x = np.random.default_rng(step).normal(size=3)
            yield {"x": jnp.float32(np.nan if step in self.bad else x)}

    def step(self, state, batch, key):
        self.now = int(state.step) + 1
        self.call("step", self.now)
        state, metrics = self.jitted(state, batch, key, ema=self.ema)
        return state, {name: Figure(value, functools.partial(self.read, self.now)) for name, value in metrics.items()}

    def read(self, step):
        assert self.reads.setdefault(step, self.now) == self.now

    def evaluate(self, segmenter, variables, videos, *, watchers, copies, interruption):
        self.call("evaluation", self.now)
        self.evaluated[self.now] = variables["params"]["slope"]
        miou = float(1 / (1 + abs(variables["params"]["slope"][0] - 1.3)))
        return {"line": Evaluated(miou)}

    def call(self, when, step):
        self.at.pop((when, step), lambda: None)()


@dataclasses.dataclass
class Figure:
    """A metric on the device that notices being read."""

    value: jax.Array
    notice: object

    def __float__(self):
        self.notice()
        return float(self.value)

    def copy_to_host_async(self):
        self.value.copy_to_host_async()

    def is_ready(self):
        return self.value.is_ready()

    def block_until_ready(self):
        self.value.block_until_ready()


@dataclasses.dataclass
class Evaluated:
    miou: float

    def figures(self):
        return {metric.key: self.miou for metric in METRICS}


@pytest.fixture
def line(monkeypatch):
    line = Line()
    monkeypatch.setattr(loop, "prepare", line.prepare)
    monkeypatch.setattr(loop, "evaluate", line.evaluate)
    monkeypatch.setattr(loop, "main_table", lambda scores: "table")
    return line


def config_of(workdir, plan=PLAN, ema=0.0):
    config = dataclasses.replace(load_config(CONFIG), workdir=str(workdir), train=plan)
    return dataclasses.replace(config, optim=dataclasses.replace(config.optim, ema=ema))


def trained(workdir, plan=PLAN, ema=0.0):
    """Exit status."""
    return run_command(lambda _: loop.train(config_of(workdir, plan, ema)) and None, [])


def state_of(workdir, step=STEPS, ema=0.0):
    with Checkpoints(workdir) as checkpoints:
        return (
            jax.device_get(checkpoints.restore(step, line_state(ema))),
            checkpoints.evaluations(),
            checkpoints.steps(),
        )


def assert_same_run(workdir, unbroken):
    """To the bit, with its evaluations, what is kept, and its log but for the speed."""
    (found, *of_found), (expected, *of_expected) = state_of(workdir), state_of(unbroken)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert of_found == of_expected
    for group, left_out in (("train", {"clips_per_second", "data_wait"}), ("eval", set())):
        lines = [
            [{k: v for k, v in entry.items() if k not in left_out} for entry in log_lines(folder, group)]
            for folder in (workdir, unbroken)
        ]
        assert lines[0] == lines[1]


def raising(number):
    return lambda: os.kill(os.getpid(), number)


# --- an unbroken run


def test_an_unbroken_run(line, tmp_path, capfd):
    line.jitted.clear_cache()
    assert trained(tmp_path / "run") == 0
    assert f"{tmp_path}/run has done its {STEPS} steps\n" in capfd.readouterr().out
    # The host waits for the device where it saves, and nowhere else: lines are written a step later.
    assert line.reads == {3: 3, 4: 4, 5: 6, 6: 6, 8: 8, 9: 9, 10: 11, 12: 12}
    assert line.jitted._cache_size() == 1
    _, evaluations, steps = state_of(tmp_path / "run")
    assert sorted(evaluations) == [4, 8, 12]
    best = max(evaluations, key=evaluations.get)
    assert steps == sorted({best, 9, 12}) and best < 9  # Saved: 3 4 6 8 9 12.
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    times = log_lines(tmp_path / "run", "time")
    assert [entry["step"] for entry in times] == [5, 10, 12, 12] and times[-1]["compilations"] == 1
    spent = sum(value for name, value in times[-1].items() if name in ("productive", *CAUSES))
    assert spent == pytest.approx(times[-1]["wall"]) and 0 < times[-1]["goodput"] < 1
    starts = (tmp_path / "run" / "run.jsonl").read_text().splitlines()
    assert [json.loads(entry)["start_step"] for entry in starts] == [0]


def test_what_is_compiled_again_is_told(line, tmp_path, capfd):
    """A step whose batch has another type."""
    line.jitted.clear_cache()
    clips = line.clips
    line.clips = lambda start: (
        {"x": batch["x"].astype(jnp.bfloat16) if i == 6 else batch["x"]} for i, batch in enumerate(clips(start))
    )
    assert trained(tmp_path / "run") == 0
    assert "step 7 was compiled anew" in capfd.readouterr().out
    assert log_lines(tmp_path / "run", "time")[-1]["compilations"] == 2


def test_nothing_is_moved_within_the_loop(line, tmp_path):
    """A batch that still lies on the host."""
    clips = line.clips
    line.clips = lambda start: (jax.device_get(batch) if i == 6 else batch for i, batch in enumerate(clips(start)))
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        trained(tmp_path / "run")


def test_the_average_is_kept_evaluated_and_gone_on_with(line, tmp_path, capfd):
    assert trained(tmp_path / "whole", ema=0.9) == 0
    assert "(EMA weights)" in capfd.readouterr().out
    state, evaluations, _ = state_of(tmp_path / "whole", ema=0.9)
    np.testing.assert_array_equal(line.evaluated[STEPS], state.ema["slope"])
    assert not np.array_equal(state.ema["slope"], state.params["slope"])
    line.at["waiting", 8] = raising(signal.SIGTERM)
    assert trained(tmp_path / "broken", ema=0.9) == 143
    assert trained(tmp_path / "broken", ema=0.9) == 0
    found, of_found, _ = state_of(tmp_path / "broken", ema=0.9)
    jax.tree.map(np.testing.assert_array_equal, found, state)
    assert of_found == evaluations
    with Checkpoints(tmp_path / "whole") as checkpoints:
        assert checkpoints.has_average(STEPS)
        raw = checkpoints.restore_variables(STEPS, line_state().variables)
        average = checkpoints.restore_variables(STEPS, line_state().variables, ("slope", "offset"))
    np.testing.assert_array_equal(raw["params"]["slope"], state.params["slope"])
    np.testing.assert_array_equal(average["params"]["slope"], state.ema["slope"])
    np.testing.assert_array_equal(average["params"]["offset"], state.ema["offset"])
    np.testing.assert_array_equal(average["batch_stats"]["mean"], state.batch_stats["mean"])
    # The average is beside what is trained: without it the training is the same.
    assert trained(tmp_path / "without") == 0
    jax.tree.map(np.testing.assert_array_equal, state_of(tmp_path / "without")[0].params, state.params)


# --- signals


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        line = Line()
        for name, value in (("prepare", line.prepare), ("evaluate", line.evaluate), ("main_table", lambda s: "table")):
            patch.setattr(loop, name, value)
        workdir = tmp_path_factory.mktemp("unbroken") / "run"
        assert trained(workdir) == 0
    return workdir


@pytest.mark.parametrize(
    ("when", "step", "number", "status", "done"),
    [
        ("waiting", 1, signal.SIGTERM, 143, 0),
        pytest.param("waiting", 6, signal.SIGINT, 130, 5, marks=pytest.mark.long),
        pytest.param("step", 5, signal.SIGTERM, 143, 5, marks=pytest.mark.long),
        ("step", 6, signal.SIGINT, 130, 6),  # The save that is due anyway.
        pytest.param("step", 12, signal.SIGTERM, 143, 12, marks=pytest.mark.long),
        pytest.param("evaluation", 8, signal.SIGTERM, 143, 8, marks=pytest.mark.long),
        ("evaluation", 12, signal.SIGINT, 130, 12),
    ],
)
def test_a_signal_ends_the_run_after_its_step(line, unbroken, tmp_path, capfd, when, step, number, status, done):
    line.at[when, step] = raising(number)
    assert trained(tmp_path / "run") == status
    said = capfd.readouterr().err.strip().splitlines()[-1]
    saved = ", which is saved" if done else ""
    assert said == (
        f"{tmp_path}/run: stopped by {number.name} after step {done}{saved}; the same command goes on from there"
    )
    assert newest_whole(tmp_path / "run") == (done, ())
    assert trained(tmp_path / "run") == 0
    found, *_ = state_of(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, found, state_of(unbroken)[0])
    if done % 5:  # A step that only the broken run has saved pushes another out.
        assert state_of(tmp_path / "run")[1] == state_of(unbroken)[1]
    else:
        assert_same_run(tmp_path / "run", unbroken)


def test_what_was_killed_goes_on(line, unbroken, tmp_path):
    """As a kill leaves it: nothing after the last whole step counts, a line of the log was cut off."""

    class Killed(BaseException):
        pass

    def kill():
        raise Killed

    for when, step in (("waiting", 2), ("evaluation", 4), ("step", 5), ("waiting", 8), ("step", 12)):
        line.at[when, step] = kill
        with pytest.raises(Killed):
            loop.train(config_of(tmp_path))
        with (tmp_path / "log.jsonl").open("a") as log:
            log.write('{"step": 1, "gro')
    assert trained(tmp_path) == 0
    assert_same_run(tmp_path, unbroken)
    assert trained(tmp_path) == 0  # The command may be repeated for ever.


def test_a_second_ctrl_c_ends_the_process_at_once():
    program = (
        "import time\nfrom cffm_jax.runtime.signals import Interruption\n"
        "with Interruption() as i, i.deferred():\n print('ready', flush=True)\n"
        " for _ in range(600):\n  time.sleep(0.1)\n  print('.', end='', flush=True)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        process.stdout.read(3)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == -signal.SIGINT
    finally:
        process.kill()
        process.communicate()


def test_what_a_callback_swallows_is_raised_again(monkeypatch):
    """As of JAX's callback for garbage collections: what a handler raises in there is reported and forgotten."""
    monkeypatch.setattr(signals, "_AGAIN", 0.05)

    def swallowing(number):
        with contextlib.suppress(Stopped):
            os.kill(os.getpid(), number)
            time.sleep(10)

    before = signal.getsignal(signal.SIGTERM)
    began = time.monotonic()
    with pytest.raises(Stopped, match="SIGTERM"), signals.Interruption():
        swallowing(signal.SIGTERM)
        time.sleep(10)  # Waiting.
    with pytest.raises(Stopped, match="SIGINT"), signals.Interruption() as within, within:
        swallowing(signal.SIGINT)
        with within.deferred():  # A step.
            time.sleep(0.2)
        raise AssertionError
    with pytest.raises(Stopped, match="SIGTERM"), signals.Interruption() as within:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        except Stopped:
            with within.deferred(last=True):  # Saving, on the way out.
                time.sleep(0.2)
            time.sleep(0.2)
            raise
    assert time.monotonic() - began < 8
    assert signal.getsignal(signal.SIGTERM) == before and signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_stopped_is_no_error():
    assert not issubclass(Stopped, Exception)
    assert run_command(lambda _: (_ for _ in ()).throw(KeyboardInterrupt), []) == 130


# --- numbers gone bad


def test_what_is_not_finite_is_skipped_and_counted(line, tmp_path):
    line.bad = (2, 3, 7)
    assert trained(tmp_path / "run") == 0
    state, *_ = state_of(tmp_path / "run")
    assert (int(state.step), int(state.skipped), int(state.bad_in_a_row)) == (STEPS, 3, 0)
    assert int(state.opt_state[0].count) == STEPS - 3
    lines = log_lines(tmp_path / "run", "train")
    assert [entry["skipped"] for entry in lines] == [2, 3, 3]
    # By hand, without the guard and without those batches.
    expected, key = jax.device_get(line_state()), jax.random.key(1)
    for step in range(1, STEPS + 1):
        if step not in line.bad:
            batch = {"x": jnp.float32(np.random.default_rng(step).normal(size=3))}
            new, _ = jax.jit(line_step)(expected.replace(step=jnp.int32(step - 1)), batch, key)
            expected = jax.device_get(new)
    jax.tree.map(np.testing.assert_array_equal, state.variables, expected.variables)
    jax.tree.map(np.testing.assert_array_equal, state.opt_state, expected.opt_state)


@pytest.mark.parametrize(("first", "noticed", "kept"), [(2, 5, 1), (1, 5, 0), (5, 10, 6)])
def test_too_many_in_a_row_stop_the_run(line, unbroken, tmp_path, capfd, first, noticed, kept):
    """BAD of them from step ``first`` on: what comes until the host looks, where it logs or saves, is left out too."""
    line.bad = range(first, first + BAD)
    plan = dataclasses.replace(PLAN, checkpoint_every=6, eval_every=0)
    assert trained(tmp_path, plan) == 2
    error = capfd.readouterr().err.strip().splitlines()[-1]
    count, good = noticed - first + 1, first - 1
    assert f"loss or gradients were not finite in {count} iterations in a row, from {first} on; " in error
    assert (f"step {kept} is kept; " in error) == bool(kept) and newest_whole(tmp_path) == (kept, ())
    if kept:
        found, *_ = state_of(tmp_path, kept)
        assert int(found.opt_state[0].count) == good and all(np.isfinite(x).all() for x in jax.tree.leaves(found))
    if kept == good:  # Exactly that of the last good step: had the batches been good, nothing would have happened.
        line.bad = ()
        assert trained(tmp_path, plan) == 0
        jax.tree.map(np.testing.assert_array_equal, state_of(tmp_path)[0], state_of(unbroken)[0])


def test_a_loss_alone_that_is_not_finite():
    state = line_state()
    new = jax.tree.map(lambda leaf: leaf + 1, (state.params, state.batch_stats, state.opt_state))
    for finite in (True, False):
        after = next_state(state, jnp.bool_(finite), *new, BAD)
        expected = new if finite else (state.params, state.batch_stats, state.opt_state)
        jax.tree.map(np.testing.assert_array_equal, (after.params, after.batch_stats, after.opt_state), expected)
        assert (int(after.step), int(after.skipped), int(after.bad_in_a_row)) == (1, 1 - finite, 1 - finite)
    stuck = state.replace(bad_in_a_row=jnp.int32(BAD))
    after = next_state(stuck, jnp.bool_(True), *new, BAD)
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)
    assert int(after.bad_in_a_row) == BAD + 1
    after = next_state(state.replace(bad_in_a_row=jnp.int32(BAD - 1)), jnp.bool_(True), *new, BAD)
    assert int(after.bad_in_a_row) == 0
