"""What a training step takes of the devices' memory, told before the first is taken."""

from __future__ import annotations

import math
import time
import typing
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from cffm_jax.config import SETTINGS, Config
from cffm_jax.errors import InputError
from cffm_jax.models.encoders.names import ENCODER
from cffm_jax.models.layers import Remat
from cffm_jax.models.methods.method import Method
from cffm_jax.rules import option_name
from cffm_jax.runtime.compiling import compiling
from cffm_jax.runtime.devices import memory_of, planned_bytes, share_variable
from cffm_jax.training.ahead import AHEAD

MOST = 0.95
"""Share of a GPU that JAX can be given: its driver takes some."""
_SMALLER = "smaller"


def compiled(config: Config, step: Any, state: Any, batch: Any, key: Any, held: int = 0) -> tuple[int | None, float]:
    """Compiles a jitted step for such arguments, of which shapes will do, and says so; its first
    call then does not. ``held``: bytes that lie beside them.

    Returns:
      Bytes that it takes of each device, those of the batches ahead included (None where the
      compiler does not tell), and the seconds that compiling took.
    """
    kind = (config.model.name, config.model.dtype, config.train.batch_size, config.data.crop)
    began = time.perf_counter()
    with compiling("the training step", *kind):
        planned = planned_bytes(step.lower(state, batch, key).compile())
    seconds = time.perf_counter() - began
    return None if planned is None else planned + held + AHEAD * batch_bytes(batch), seconds


def batch_bytes(batch: Any) -> int:
    """Bytes of a batch on each of its devices."""
    arrays = jax.tree.leaves(batch)
    return sum(math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize for array in arrays)


def require_memory(needed: int | None, config: Config, model: Method, mesh: Mesh, goes_on: bool) -> str:
    """A line about the ``needed`` bytes of a step and what this process's devices have; "" where
    the compiler does not tell.

    What a GPU's allocator cannot hold is sure to fail: an InputError. The machine's memory, which
    CPUs share, is swapped, and grows by what other processes give back: there the line says that it
    is too small, and the run begins.

    ``goes_on``: a run that has begun keeps the settings that change what it trains.
    """
    if needed is None:
        return ""
    local = mesh.local_devices
    memory = min(map(memory_of, local), key=lambda memory: memory.usable or 0)
    if memory.host:
        needed *= len(local)
    whose = "" if memory.host else " of each device"
    takes = f"a step takes {needed / 1e9:.2f} GB"
    if memory.usable is None:
        return f"memory: {takes}{whose}"
    share = f" ({100 * memory.share:.0f} % of it)" if memory.share < 1 else ""
    line = f"{takes}, {'the machine' if memory.host else 'JAX'} has {memory.usable / 1e9:.2f} GB{whose}{share}"
    if needed <= memory.usable:
        return f"memory: {line}"
    options = [
        f"a smaller {option_name(name)}" if value is _SMALLER else f"{option_name(name)} {value}"
        for name, value in _savings(config, model, mesh)
        if not (goes_on and SETTINGS[name].changes == "training")
    ]
    if memory.host:
        return f"memory: {line}: it will swap, or be killed; {_remedy(options)}"
    if memory.share < MOST and needed <= MOST * memory.usable / memory.share:
        options.insert(0, f"{share_variable()}={MOST} in the environment")
    raise InputError("device memory", line, _remedy(options))


def _remedy(options: Sequence[str]) -> str:
    *others, last = options or ["devices with more memory"]
    return f"give {', '.join(others)}, or {last}" if others else f"use {last}"


def _savings(config: Config, model: Method, mesh: Mesh) -> list[tuple[str, str]]:
    """Settings by dotted name, with values that take less memory than those in use; first what
    changes no figure."""
    plan, devices, cpu = config.train, mesh.size, mesh.devices.flat[0].platform == "cpu"
    parts = plan.batch_size // devices  # That a device's clips may be computed in.
    savings = []
    if plan.fsdp < devices:
        savings.append(("train.fsdp", str(devices)))
    more = range(devices + plan.fsdp, jax.device_count() + 1, plan.fsdp)
    more = [count for count in more if plan.batch_size % (count * plan.accumulate) == 0]
    if more and not cpu:  # CPUs share their memory.
        savings.append(("train.devices", str(more[-1])))
    # What is computed twice XLA computes once on CPUs; and frozen parts have no pass back.
    kinds = typing.get_args(Remat)[typing.get_args(Remat).index(plan.remat) + 1 :]
    if kinds and not cpu and model.is_trained(ENCODER):
        savings.append(("train.remat", " or ".join(kinds)))
    if config.model.dtype == "float32":
        savings.append(("model.dtype", "bfloat16"))
    if parts > plan.accumulate:
        counts = [str(count) for count in range(plan.accumulate + 1, parts + 1) if parts % count == 0]
        savings += [("train.accumulate", " or ".join(counts)), ("train.batch_size", _SMALLER)]
    return [*savings, ("data.crop", _SMALLER)]
