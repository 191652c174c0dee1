"""Several processes: where each stands, real ones that train, agree, stop and end together."""

import signal
import socket
import time

import numpy as np
import pytest

from cffm_jax.checkpoints.by_path import newest_whole
from cffm_jax.commands.train import train_command
from cffm_jax.config import ClusterConfig, OptimConfig
from cffm_jax.errors import InputError
from cffm_jax.runtime.cluster import find_place

from helpers.runs import Refusal, address, ended, final_variables, leaves, log_lines, place, started_with, train_argv

pytestmark = pytest.mark.long

SLURM = {
    "SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "16", "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "16", "SLURM_STEP_TASKS_PER_NODE": "8(x2)",
}  # fmt: skip
OMPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}
KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "2"}
STEPS, RATE = 12, 1e-4

TRAIN = """
import sys
from cffm_jax.commands.train import train_command
from cffm_jax.runtime.command_line import run_command
if __name__ == "__main__":
    sys.exit(run_command(train_command))
"""

# Process 1 meets an error: first argument "together" where all look for it, else in the middle of the others' work.
FAIL = """
import sys
from cffm_jax.runtime.cluster import connected, gathered, from_first, share, together, first
from cffm_jax.config import ClusterConfig
from cffm_jax.errors import InputError
from cffm_jax.runtime.command_line import run_command

def main(argv):
    with connected(ClusterConfig(argv[1], 2, int(argv[2]), connect_seconds=30, heartbeat_seconds=5)):
        assert gathered(argv[2] * 3) == ["000", "111"] and from_first(lambda: argv[2]) == "0"
        assert share(tuple("abc")) == (("a", "c") if first() else ("b",))
        if argv[0] == "together":
            with together():
                if not first():
                    raise InputError("file", "is bad", "mend it")
        elif not first():
            raise InputError("file", "is bad", "mend it")
        gathered(0)

if __name__ == "__main__":
    sys.exit(run_command(main))
"""


@pytest.mark.parametrize(
    ("environ", "options", "expected"),
    [
        ({}, {}, None),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "16", "SLURM_PROCID": "0"}, {}, None),  # sbatch without srun
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "1"}, {}, None),  # an interactive step of a larger job
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, {}, None),  # no indexed job
        (SLURM, {"processes": 1}, None),
        ({**OMPI, "OMPI_COMM_WORLD_SIZE": "1"}, {}, None),
        (SLURM, {}, (None, 16, 9, "slurm", None)),
        ({**SLURM, "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, {}, (None, 16, 9, "slurm", None)),
        ({**SLURM, "CUDA_VISIBLE_DEVICES": "0"}, {}, (None, 16, 9, "slurm", [0])),  # --gpus-per-task=1
        ({**SLURM, "SLURM_STEP_TASKS_PER_NODE": "1(x16)", "SLURM_GPUS_ON_NODE": "4"}, {},
         (None, 16, 9, "slurm", [0, 1, 2, 3])),
        ({**OMPI, "OMPI_MCA_orte_hnp_uri": "4096.0;tcp://10.0.0.1:3"}, {}, (None, 4, 3, "ompi", None)),
        (OMPI, {"coordinator": "a:1"}, ("a:1", 4, 3, "deactivate", None)),
        (KUBERNETES, {}, (None, None, 2, "k8s", None)),
        (KUBERNETES, {"coordinator": "a:1", "processes": 8}, ("a:1", 8, 2, "k8s", None)),
        ({}, {"coordinator": "[::1]:1", "processes": 2, "process": 0}, ("[::1]:1", 2, 0, "deactivate", None)),
    ],
)  # fmt: skip
def test_the_place_of_a_process(environ, options, expected):
    assert find_place(ClusterConfig(**options), environ) == expected


@pytest.mark.parametrize(
    ("environ", "options", "where", "problem"),
    [
        ({}, {"process": 1}, "--cluster.coordinator", "is missing"),
        ({}, {"coordinator": "a:1", "process": 1}, "--cluster.processes", "is missing"),
        ({}, {"coordinator": "a:1", "processes": 2}, "--cluster.process", "is missing"),
        (OMPI, {}, "--cluster.coordinator", "is missing"),
        ({}, {"coordinator": "a:1", "processes": 2, "process": 2}, "--cluster.process", "is 2, of 2"),
        ({}, {"coordinator": "a", "processes": 2, "process": 0}, "--cluster.coordinator", "is a"),
        ({}, {"coordinator": "a:99999", "processes": 2, "process": 0}, "--cluster.coordinator", "is a:99999"),
        ({}, {"coordinator": "a:1", "processes": -2, "process": 0}, "--cluster.processes", "is -2"),
    ],
)
def test_places_that_do_not_fit(environ, options, where, problem):
    with pytest.raises(InputError) as caught:
        find_place(ClusterConfig(**options), environ)
    assert caught.value.where == where and problem in caught.value.problem


def test_refusals_of_the_command(data, tmp_path, refused):
    refused(train_command, train_argv(data, tmp_path / "run", "--cluster.process", 1), "--cluster.coordinator")
    argv = train_argv(data, tmp_path / "run", "--cluster.processes", 2, "--cluster.process", 0)
    refused(train_command, [*argv, "--cluster.coordinator", "nowhere.invalid:1"], "no such host")
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = f"127.0.0.1:{server.getsockname()[1]}"
        refused(train_command, [*argv, "--cluster.coordinator", taken], "the port cannot be used")
    argv = train_argv(data, tmp_path / "run", "--train.devices", 3, "--train.batch_size", 8)
    refused(train_command, argv, "8 clips do not divide over 3 devices", "--train.devices: one of 1 2 4 8")
    argv = train_argv(data, tmp_path / "run", "--train.devices", 4, "--train.batch_size", 8, "--train.accumulate", 4)
    refused(train_command, argv, "4 devices, in 4 parts each", "--train.devices: one of 1 2,", "a multiple of 16")
    argv = train_argv(data, tmp_path / "run", "--train.devices", 4, "--train.fsdp", 3)
    refused(train_command, argv, "--train.fsdp", "3 does not divide 4 devices", "one of 1 2 4")


@pytest.mark.parametrize("process", [0, 1])
def test_a_process_that_finds_no_other(data, tmp_path, process):
    began = time.monotonic()
    argv = train_argv(data, tmp_path / "run", *place(address(), process), "--cluster.connect_seconds", 1)
    [(status, out, err)] = ended([started_with(1, TRAIN, *argv)])
    Refusal.check(status, err, "did not find each other within 1 s", progress=True)
    assert time.monotonic() - began < 60 and not out and not (tmp_path / "run").exists()


@pytest.mark.parametrize("how", ["together", "alone"])
def test_an_error_of_one_process_ends_all(how):
    where, began = address(), time.monotonic()
    (zero, _, told), (one, _, own) = ended([started_with(1, FAIL, how, where, process) for process in (0, 1)])
    assert one == 2 and zero != 0 and time.monotonic() - began < 60
    if how == "together":
        assert zero == 2 and "error: file: is bad; mend it\n" in told and "error: " not in own
    else:
        assert "error: file: is bad; mend it (process 1 of 2)\n" in own


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """(folder of one process's run, of one that two began and one ended, its step when it changed, what they said)."""
    folder = tmp_path_factory.mktemp("cluster")
    more = ("--model.name", "segformer_b0", "--train.devices", 0, "--train.steps", STEPS, "--train.eval_every", 4)
    more = (*more, "--train.checkpoint_every", 4, "--train.keep", STEPS, "--model.dropout", 0, "--optim.rate", RATE)
    alone, shared = (train_argv(data, folder / name, *more) for name in ("alone", "shared"))
    where = address()
    two = [started_with(1, TRAIN, *shared, *place(where, process), "--train.fsdp", 2) for process in (0, 1)]
    log = folder / "shared" / "log.jsonl"
    while not (log.exists() and '"eval"' in log.read_text()):
        assert all(process.poll() is None for process in two), ended(two)
        time.sleep(0.05)
    two[1].send_signal(signal.SIGTERM)  # One alone.
    said = ended(two)
    stopped, notes = newest_whole(folder / "shared")
    assert not notes
    for argv in (alone, shared):
        [(status, _, err)] = ended([started_with(1, TRAIN, *argv)])
        assert status == 0, err
    return folder / "alone", folder / "shared", stopped, said


def test_a_signal_to_one_process_stops_all_after_the_same_step(runs):
    _, shared, stopped, said = runs
    assert [status for status, *_ in said] == [143, 143] and 4 < stopped < STEPS
    (_, out, err), (_, quiet, silent) = (texts for texts in said)
    assert "2 device(s) of 2 processes" in out and f"after step {stopped}, which is saved; " in err.splitlines()[-1]
    assert not silent and all(line.startswith("[Gloo]") for line in quiet.splitlines())
    assert "Traceback" not in err


def test_two_processes_train_as_one_does(runs):
    """Losses to 1e-4 and parameters to 1e-4 of each array's largest value, through Adam, with split parameters."""
    alone, shared, stopped, _ = runs
    pairs = list(zip(log_lines(alone, "train"), log_lines(shared, "train"), strict=True))
    assert [line["step"] for line, _ in pairs] == list(range(1, STEPS + 1))
    for one, two in pairs:
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4), one["step"]
    for step in (4, stopped, STEPS):
        one, two = (leaves(final_variables(folder, step)[1]) for folder in (alone, shared))
        for name, array in one.items():
            limit = 1e-4 * max(1.0, np.abs(array).max())
            if ("project" in name and "bias" in name) or name == "['batch_stats']['decoder']['norm']['mean']":
                # BatchNorm cancels it: its gradient is rounding, of which Adam makes whole steps. Its mean moves along.
                limit = 2 * step * RATE * OptimConfig.head_multiplier
            np.testing.assert_allclose(two[name], array, rtol=0, atol=limit, err_msg=f"{step} {name}")


def test_two_processes_evaluate_as_one_does(runs):
    alone, shared, *_ = runs
    one, two = (log_lines(folder, "eval") for folder in (alone, shared))
    assert [line["step"] for line in one] == [line["step"] for line in two] == [4, 8, 12]
    for name, value in one[0].items():
        assert two[0][name] == pytest.approx(value, abs=2e-3) if "/" in name else two[0][name] == value
    assert one[0]["per-frame (SegFormer)/frames"] == 36
