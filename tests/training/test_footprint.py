"""What a step takes of memory is known before it is taken, and what would take less is named: devices by hand."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from cffm_jax.commands.train import train_command
from cffm_jax.config import Config, ModelConfig, TrainConfig
from cffm_jax.errors import InputError
from cffm_jax.models.create import build_model
from cffm_jax.runtime import devices, memory
from cffm_jax.runtime.devices import DeviceMemory, memory_of, planned_bytes
from cffm_jax.training import footprint, setup
from cffm_jax.training.footprint import require_memory

from helpers.runs import train_argv, zeros

GB = 10**9
USUAL = Config()
FRUGAL = Config(model=ModelConfig(dtype="bfloat16"), train=TrainConfig(remat="blocks", accumulate=8))


def mesh_of(count=1, platform="gpu", limit=60 * GB):
    stats = {"bytes_limit": limit} if limit else None
    local = [types.SimpleNamespace(platform=platform, memory_stats=lambda: stats)] * count
    return types.SimpleNamespace(size=count, devices=np.array(local), local_devices=local)


def asked(config=USUAL, needed=100 * GB, mesh=None, goes_on=False):
    return require_memory(needed, config, build_model(config.model), mesh or mesh_of(), goes_on)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(jax, "device_count", lambda: 1)


def remedy(**given):
    with pytest.raises(InputError) as caught:
        asked(**given)
    assert caught.value.where == "device memory"
    return caught.value.remedy


def test_a_step_that_fits_is_told():
    line = "memory: a step takes 5.90 GB, JAX has 60.00 GB of each device (75 % of it)"
    assert asked(needed=59 * GB // 10) == line
    assert asked(needed=60 * GB).startswith("memory: a step takes 60.00 GB")
    assert asked(needed=5 * GB, mesh=mesh_of(limit=None)) == "memory: a step takes 5.00 GB of each device"
    assert asked(needed=5 * GB, mesh=mesh_of(platform="tpu")).endswith("JAX has 60.00 GB of each device")
    assert asked(needed=None) == ""


def test_what_is_in_use_already_is_not_named():
    everything = "give --train.remat products or blocks, --model.dtype bfloat16, --train.accumulate 2 or 4 or 8, "
    assert remedy() == everything + "a smaller --train.batch-size, or a smaller --data.crop"
    assert remedy(config=FRUGAL) == "use a smaller --data.crop"
    part = dataclasses.replace(USUAL, train=TrainConfig(remat="products", accumulate=2))
    assert "--train.remat blocks, " in remedy(config=part) and "--train.accumulate 4 or 8, " in remedy(config=part)
    # The frozen parts of a second stage have no pass back.
    assert "--train.remat" not in remedy(config=Config(model=ModelConfig(name="cffmpp_b0")))


def test_devices_share_the_state_and_the_clips(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    said = remedy(mesh=mesh_of(2))
    assert "--train.fsdp 2, --train.devices 8, " in said and "--train.accumulate 2 or 4, " in said
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    shared = dataclasses.replace(USUAL, train=TrainConfig(fsdp=2))
    assert "--train.fsdp" not in remedy(config=shared, mesh=mesh_of(2))
    assert "--train.devices" not in remedy(config=shared, mesh=mesh_of(2))


def test_a_run_that_has_begun_keeps_its_figures():
    assert remedy(goes_on=True) == "use --train.remat products or blocks"
    assert remedy(goes_on=True, config=FRUGAL) == "use devices with more memory"


def test_jax_can_be_given_more_of_a_gpu(monkeypatch):
    assert "XLA" not in remedy(needed=77 * GB)  # Of 80.
    assert "give XLA_CLIENT_MEM_FRACTION=0.95 in the environment, " in remedy(needed=75 * GB)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
    mesh = mesh_of(limit=72 * GB)
    assert "give XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 in the environment, " in remedy(needed=75 * GB, mesh=mesh)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.95")
    assert "XLA" not in remedy(needed=77 * GB, mesh=mesh_of(limit=76 * GB))


def test_cpus_share_the_machines_memory_and_are_not_refused(monkeypatch):
    monkeypatch.setattr(devices, "machine_bytes", lambda: 24 * GB)
    assert asked(needed=3 * GB, mesh=mesh_of(8, "cpu")) == "memory: a step takes 24.00 GB, the machine has 24.00 GB"
    said = asked(needed=25 * GB, mesh=mesh_of(1, "cpu"))
    assert said.startswith("memory: a step takes 25.00 GB, the machine has 24.00 GB: it will swap, or be killed; give ")
    assert "--train.accumulate 2" in said and "--train.remat" not in said and "--train.devices" not in said


def test_a_containers_limit_counts(monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "_LIMITS", (tmp_path / "none", limit))
    for text in ("max\n", f"{1 << 62}\n"):
        limit.write_text(text)
        whole = memory.machine_bytes()
        assert whole > GB / 2
    limit.write_text("1000000\n")
    assert memory.machine_bytes() == 1_000_000
    assert memory_of(jax.local_devices()[0]) == DeviceMemory(1_000_000, host=True)


# --- the command


@dataclasses.dataclass
class Plan:
    argument_size_in_bytes: int = 5 * GB
    output_size_in_bytes: int = 4 * GB
    alias_size_in_bytes: int = 4 * GB
    temp_size_in_bytes: int = 55 * GB


def test_the_bytes_of_a_program():
    """What is donated counts once; nothing is known of it without a plan."""
    program = types.SimpleNamespace(memory_analysis=Plan)
    assert planned_bytes(program) == 60 * GB
    assert planned_bytes(types.SimpleNamespace(memory_analysis=lambda: None)) is None


def test_a_step_that_does_not_fit_is_refused_with_nothing_written(data, tmp_path, monkeypatch, refused):
    """Its 60 GB, and two batches ahead of 2 clips."""
    program = types.SimpleNamespace(memory_analysis=Plan)
    step = types.SimpleNamespace(lower=lambda *_: types.SimpleNamespace(compile=lambda: program))
    monkeypatch.setattr(setup, "init_variables", lambda model, key: zeros(model))
    monkeypatch.setattr(setup, "step_of", lambda *_: step)
    monkeypatch.setattr(footprint, "memory_of", lambda device: DeviceMemory(60 * GB))
    argv = train_argv(data, tmp_path / "run", "--model.dtype", "bfloat16", "--model.name", "segformer_b0")
    said = "device memory: a step takes 60.00 GB, JAX has 60.00 GB of each device; give "
    refused(train_command, argv, f"{said}--train.accumulate 2, a smaller --train.batch-size, or a smaller --data.crop")


def test_the_batches_ahead_count():
    place = types.SimpleNamespace(shard_shape=lambda shape: (shape[0] // 2, *shape[1:]))
    array = types.SimpleNamespace(shape=(8, 10), dtype=np.dtype(np.int32), sharding=place)
    assert footprint.batch_bytes({"a": array, "b": array}) == 2 * 4 * 10 * 4
