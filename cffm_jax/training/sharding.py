"""Training state: what a step changes, and how it starts."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cffm_jax.checkpoints.state import TrainState
from cffm_jax.errors import InputError
from cffm_jax.models.methods.method import Method
from cffm_jax.models.variables import trained_parts, variable_shapes

DATA_AXIS, FSDP_AXIS = "data", "fsdp"
SMALLEST_SPLIT = 4096
"""Smaller arrays stay whole on every device: collecting their parts would not be worth the time."""


def make_mesh(devices: int, fsdp: int = 1) -> Mesh:
    """A mesh over the first ``devices`` devices (0: all) with the batch's axis "data".

    With ``fsdp`` there is a second axis "fsdp" of that length: it splits the state, both the batch.

    Raises:
      InputError: too few devices, a process would have none, or ``fsdp`` does not divide them.
    """
    available = jax.devices()
    if devices > len(available):
        raise InputError(
            "--train.devices", f"{devices} asked for, {len(available)} here", "ask for fewer, or 0 for all"
        )
    if devices and devices < len(available) and jax.process_count() > 1:
        problem = f"{devices} asked for, but the {jax.process_count()} processes have {len(available)}"
        raise InputError("--train.devices", problem, "several processes use all of theirs: give 0")
    return mesh_of(available[: devices or len(available)], fsdp)


def mesh_of(devices: Sequence[jax.Device], fsdp: int = 1) -> Mesh:
    """The mesh of ``make_mesh`` over these devices; InputError if ``fsdp`` does not divide them."""
    used = np.array(devices)
    if len(used) % fsdp:
        raise InputError("--train.fsdp", f"{fsdp} does not divide {len(used)} devices", _one_of(len(used)))
    if fsdp == 1:
        return Mesh(used, (DATA_AXIS,))
    return Mesh(used.reshape(-1, fsdp), (DATA_AXIS, FSDP_AXIS))


def require_shares(batch_size: int, mesh: Mesh, accumulate: int) -> None:
    """InputError if a batch does not split evenly over the devices and the accumulated parts."""
    if batch_size % (mesh.size * accumulate):
        parts = f", in {accumulate} parts each" if accumulate > 1 else ""
        problem = f"{batch_size} clips do not divide over {mesh.size} devices{parts}"
        remedy = f"--train.devices: {_one_of(batch_size // np.gcd(batch_size, accumulate))}"
        remedy = f"{remedy}, or --train.batch-size: a multiple of {mesh.size * accumulate}"
        raise InputError("--train.batch-size", problem, f"{remedy} (the papers train with 8)")


def _one_of(number: int) -> str:
    """Its divisors, in words."""
    return f"one of {' '.join(str(d) for d in range(1, number + 1) if number % d == 0)}"


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names if len(mesh.axis_names) > 1 else DATA_AXIS))


def state_sharded(mesh: Mesh, tree: Any) -> Any:
    """Each leaf's sharding: "fsdp" splits large arrays along the longest side that it divides."""
    parts = mesh.shape.get(FSDP_AXIS, 1)

    def sharding(leaf: jax.Array) -> NamedSharding:
        sides = [i for i, side in enumerate(leaf.shape) if side % parts == 0]
        if parts == 1 or leaf.size < SMALLEST_SPLIT or not sides:
            return replicated(mesh)
        longest = max(sides, key=lambda i: leaf.shape[i])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, FSDP_AXIS))

    return jax.tree.map(sharding, tree)


def on_each_device(variables: Any, number: int = 0) -> list[Any]:
    """The arrays of a mesh, whole, on each of the first ``number`` devices of this process (0: of
    all); all processes have to call it."""
    split = [leaf for leaf in jax.tree.leaves(variables) if not leaf.is_fully_replicated]
    if split:
        variables = jax.jit(lambda tree: tree, out_shardings=replicated(split[0].sharding.mesh))(variables)

    def on(device: int) -> Any:
        return jax.tree.map(lambda leaf: leaf.addressable_data(device), variables)

    there = len(jax.tree.leaves(variables)[0].addressable_shards)
    return [on(device) for device in range(number or there)]


def everywhere(variables: Any, mesh: Mesh) -> Any:
    """The first process's arrays, whole on each device of all; all processes have to call it."""
    if jax.process_count() == 1:
        # Restored weights lie on one device, and a jitted function does not move what it is given.
        return jax.device_put(variables, replicated(mesh))
    # Another kind of processor may have drawn others in the last bit.
    variables = multihost_utils.broadcast_one_to_all(jax.device_get(variables))
    whole = replicated(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(whole, x, x.shape), variables)


def init_state(
    model: Method, variables: dict[str, Any], optimizer: optax.GradientTransformation, mesh: Mesh, *, ema: bool = False
) -> TrainState:
    """State before the first step, placed as in training; what is not trained needs no optimiser
    state, nor an average, which starts (with ``ema``) as the initial parameters."""
    variables = everywhere(variables, mesh)
    start = functools.partial(_start, model, optimizer, ema)
    shardings = (
        replicated(mesh) if FSDP_AXIS not in mesh.shape else state_sharded(mesh, jax.eval_shape(start, variables))
    )
    return jax.jit(start, out_shardings=shardings)(variables)


def state_shapes(
    model: Method, optimizer: optax.GradientTransformation, mesh: Mesh, *, ema: bool = False
) -> TrainState:
    """Shapes and placing of what ``init_state`` gives, without computing anything."""
    shapes = jax.eval_shape(functools.partial(_start, model, optimizer, ema), variable_shapes(model))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        state_sharded(mesh, shapes),
    )


def _start(model: Method, optimizer: optax.GradientTransformation, ema: bool, variables: dict[str, Any]) -> TrainState:
    params = variables["params"]
    trained = trained_parts(model, params)
    opt_state = optimizer.init(trained)
    # Copied: a step is given the buffers of both, to write into them.
    average = jax.tree.map(jnp.copy, trained) if ema else None
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, params, variables["batch_stats"], opt_state, zero, zero, average)
