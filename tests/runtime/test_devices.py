"""Devices that are not there, and memory that is too small, are one line and exit status 2."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import cffm_jax
from cffm_jax.checkpoints.store import Checkpoints
from cffm_jax.runtime.command_line import run_command
from cffm_jax.runtime.devices import device_fault

from helpers.runs import CONFIG, K, Refusal, finished, zeros

# The real commands, each in a child of a process that has imported them, but has not asked for a device yet.
COMMANDS = """
import os, sys
from cffm_jax.commands.convert import convert_command
from cffm_jax.commands.eval import eval_command
from cffm_jax.commands.predict import predict_command
from cffm_jax.commands.train import train_command
from cffm_jax.runtime.command_line import run_command
from cffm_jax.evaluation import checkpoint
from cffm_jax.study import command as study
from cffm_jax.training import loop

config, data, weights, image, out = sys.argv[1:]
data = ["--data.root", data]
for name, command, argv in (
    ("train", train_command, ["--config", config, *data, "--workdir", out + "/run"]),
    ("eval", eval_command, ["--config", config, *data, "--checkpoint", weights, "--output", out + "/eval.json"]),
    ("predict", predict_command, [image, "--checkpoint", weights, "--output", out + "/masks"]),
    ("export", convert_command, [weights, out + "/exported", "--to", "jax-export"]),
    ("study", study.main, ["table8", "--config", config, *data, "--folder", out + "/studies"]),
):
    child = os.fork()
    if not child:
        status = run_command(command, argv)
        sys.stdout.flush()
        print(name, status, sorted(os.listdir(out)), file=sys.stderr, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""

ASK = """
import sys, jax
from cffm_jax.runtime.command_line import run_command
sys.exit(run_command(lambda _: jax.device_put(1) and 0))
"""


def ending(error):
    """A command that ends with this error."""

    def main(argv):
        raise error

    return main


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file with the weights of a CFFM-B0, all zeros."""
    model = cffm_jax.create_model("cffm_b0", K)
    variables = zeros(model)
    path = tmp_path_factory.mktemp("weights") / "zeros.safetensors"
    safetensors.numpy.save_file(cffm_jax.export_state_dict(variables, model), path)
    return path


@pytest.mark.long
def test_every_command_names_the_device_that_is_not_there(data, weights, tmp_path):
    image = next(data.glob("data/*/origin/*.jpg"))
    environ = {**os.environ, "JAX_PLATFORMS": "nonsense"}
    status, out, err = finished("-c", COMMANDS, CONFIG, data, weights, image, tmp_path, env=environ)
    lines = [line for line in err.splitlines() if line]
    assert status == 0 and len(lines) == 10, err
    for said, ended in zip(lines[::2], lines[1::2]):
        Refusal.check(2, said, "JAX_PLATFORMS: asks for nonsense, and there is cpu alone")
        assert ended.split()[1:] == ["2", "[]"], ended


@pytest.mark.parametrize(
    "platform",
    ["cuda", *(pytest.param(name, marks=pytest.mark.long) for name in ("gpu", "cpu,rocm"))],
)
def test_what_jax_says_of_a_device_that_is_not_there_is_one_line(platform):
    status, _, err = finished("-c", ASK, env={**os.environ, "JAX_PLATFORMS": platform})
    Refusal.check(status, err, f"JAX_PLATFORMS: asks for {platform}, and there is cpu alone", "unset JAX_PLATFORMS")
    assert ("nvidia-smi" in err) == (platform in ("cuda", "gpu"))


@pytest.mark.parametrize("platforms", ["cuda,cpu", pytest.param("cpu,cuda", marks=pytest.mark.long)])
def test_a_platform_that_is_passed_over_is_told(platforms):
    """JAX takes the first that works of several."""
    tell = "from cffm_jax.runtime.devices import warn_of_missing_platforms as warn; warn()"
    status, out, err = finished("-c", tell, env={**os.environ, "JAX_PLATFORMS": platforms})
    said = f"warning: JAX_PLATFORMS asks for {platforms}, and there is no cuda: cpu is used; a GPU needs its driver"
    assert status == 0 and out == "" and err.startswith(said) and len(err.splitlines()) == 1


TELL = """
import sys
from cffm_jax.commands.convert import convert_command
from cffm_jax.commands.eval import eval_command
from cffm_jax.commands.predict import predict_command
from cffm_jax.commands.train import train_command
from cffm_jax.runtime.command_line import run_command

config, nowhere = sys.argv[1:]
for command, argv in (
    (train_command, ["--config", config, "--data.root", nowhere, "--workdir", nowhere]),
    (eval_command, ["--checkpoint", nowhere]),
    (predict_command, [nowhere, "--checkpoint", nowhere]),
    (convert_command, [nowhere, nowhere + ".out", "--to", "jax-export"]),
):
    assert run_command(command, argv) == 2
"""


@pytest.mark.long
def test_every_command_tells_it(tmp_path):
    _, _, err = finished("-c", TELL, CONFIG, tmp_path / "nowhere", env={**os.environ, "JAX_PLATFORMS": "cuda,cpu"})
    assert err.count("warning: JAX_PLATFORMS asks for cuda,cpu, and there is no cuda: cpu is used") == 4, err


def test_a_plugin_without_its_driver_is_one_line(monkeypatch, capfd):
    """As JAX puts it where nothing was asked for."""
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    reason = "INTERNAL: no supported devices found for platform CUDA"
    advice = " (you may need to uninstall the failing plugin package, or set JAX_PLATFORMS=cpu to skip this backend.)"
    error = RuntimeError(f"Unable to initialize backend 'cuda': {reason}{advice}")
    status = run_command(ending(error), [])
    said = f"JAX: cannot use cuda, and there is cpu alone ({reason}); mend its driver, or set JAX_PLATFORMS=cpu"
    Refusal.check(status, capfd.readouterr().err, said, "nvidia-smi")


def test_too_little_memory_is_one_line(capfd):
    enormous = jax.jit(lambda: jnp.zeros(10**15, jnp.int8))
    for ask, where in ((enormous, "device memory"), (lambda: np.zeros(10**17), "memory")):
        status = run_command(lambda _, ask=ask: ask() and 0, [])
        said = f"error: {where}: "
        err = capfd.readouterr().err
        assert err.startswith(said)
        Refusal.check(status, err, "too small", "--train.batch-size", "--eval.chunk", "frames")


@pytest.mark.parametrize(
    "error",
    [AssertionError("a fault"), AssertionError(), RuntimeError("RESOURCE_EXHAUSTED"), KeyError("out of memory")],
)
def test_other_faults_keep_their_traceback(error):
    """An assertion without words too, as long as JAX has its devices."""
    assert jax.devices() and device_fault(error) is None
    with pytest.raises(type(error)):
        run_command(ending(error), [])


def test_a_step_that_needs_too_much_memory_is_no_fault_of_the_save_after_it(tmp_path):
    """A device says it to whoever waits for the step first."""
    with Checkpoints(tmp_path / "run") as checkpoints:
        with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"), checkpoints._saving(2):
            jax.jit(lambda: jnp.zeros(10**15, jnp.int8))()
