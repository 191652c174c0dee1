"""Running the commands in tests: tiny settings, real processes, and what a refusal must look like."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np

from cffm_jax.checkpoints.by_path import open_checkpoints
from cffm_jax.models.create import build_model
from cffm_jax.models.variables import variable_shapes
from cffm_jax.runtime.command_line import run_command

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs" / "synthetic.py")
K, STEPS, FRAMES, SIZE = 8, 4, 18, (64, 96)
DEPTHS, WIDTH = (1, 1, 1, 1), 64
TINY = (
    "--model.depths", *map(str, DEPTHS), "--model.width", str(WIDTH),
    "--data.frame_size", "64", "96", "--data.crop", "64", "64", "--optim.warmup_steps", "1", "--train.devices", "1",
    "--train.batch_size", "2", "--train.steps", str(STEPS), "--train.checkpoint_every", "2", "--train.log_every", "1",
    "--eval.devices", "1",
)  # fmt: skip
_STANDS_STILL = 600
"""Seconds that no command of the suite takes: half of what pyproject.toml gives a test."""
FIGURES = ("miou", "weighted_iou", "pixel_accuracy", "class_accuracy", "vc8", "vc16", "vc8_paper", "vc16_paper")


def train_argv(data, workdir, *more):
    return ["--config", CONFIG, *TINY, "--data.root", str(data), "--workdir", str(workdir), *map(str, more)]


def started(*arguments, **kwargs):
    """A real command in a process of its own."""
    kwargs = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT, **kwargs}
    return subprocess.Popen([sys.executable, *map(str, arguments)], **kwargs)


def seeing(devices):
    """The environment of a command that sees so many simulated devices."""
    flags = re.sub(r"(?<=device_count=)\d+", str(devices), os.environ["XLA_FLAGS"])
    return {**os.environ, "XLA_FLAGS": flags}


def started_with(devices, program, *arguments):
    """A program that sees so many simulated devices."""
    return started("-c", program, *arguments, env=seeing(devices))


def finished(*arguments, **kwargs):
    """(exit status, standard output, standard error) of a real command."""
    [said] = ended([started(*arguments, **kwargs)])
    return said


def ended(processes):
    """[(exit status, standard output, standard error)]. One that stands still is ended, with the stacks of its threads
    among its errors (conftest.py has Python write them)."""
    said, until = [], time.monotonic() + _STANDS_STILL
    try:
        for process in processes:
            try:
                texts = process.communicate(timeout=max(0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGABRT)
                texts = process.communicate(timeout=30)
            said.append((process.returncode, *texts))
    finally:
        for process in processes:
            process.kill()
    return said


def address():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def place(where, process):
    return "--cluster.coordinator", where, "--cluster.processes", 2, "--cluster.process", process


def files(folder):
    """Every path below a folder and its size, but for Python's bytecode of a config."""
    return {path: path.stat().st_size for path in folder.rglob("*") if "__pycache__" not in path.parts}


def leaves(tree):
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def final_variables(workdir, step=STEPS):
    with open_checkpoints(workdir) as checkpoints:
        model = build_model(checkpoints.config(step).model)
        return model, checkpoints.restore_variables(step, variable_shapes(model))


def log_lines(workdir, group):
    lines = map(json.loads, (Path(workdir) / "log.jsonl").read_text().splitlines())
    return [line for line in lines if line["group"] == group]


def zeros(model):
    """In place of weights that nothing is computed with."""
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), variable_shapes(model))


class Refusal:
    """``refused(main, argv, *said)``: status 2, one line that says so, nothing new or changed in the test's folder."""

    def __init__(self, folder, capfd):
        self._folder, self._capfd = folder, capfd

    def __call__(self, main, argv, *said, progress=False):
        self._capfd.readouterr()
        before = files(self._folder)
        status = run_command(main, [str(part) for part in argv])
        self.check(status, self._capfd.readouterr().err, *said, progress=progress)
        assert files(self._folder) == before

    @staticmethod
    def check(status, err, *said, progress=False):
        lines = [line for line in err.splitlines() if line.strip()]
        assert status == 2 and "Traceback" not in err
        assert lines[-1].startswith("error: ") and lines[-1].count(": ") >= 2 and "; " in lines[-1], err
        assert sum("error: " in line for line in lines) == 1
        assert progress or len(lines) == 1, err
        for words in said:
            assert str(words) in lines[-1], lines[-1]
