"""Training state: what a step changes, and how it starts."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cffm_jax.config import IGNORED_LABEL, Config
from cffm_jax.errors import InputError
from cffm_jax.models.cffa import reference_sources
from cffm_jax.models.cffm import CFFM, GLOBAL_PREFIX, INPUT_MULTIPLE, create_model
from cffm_jax.models.cfm import HEADS

DATA_AXIS = "data"


@flax.struct.dataclass
class TrainState:
    """Iterations done, parameters, BatchNorm statistics, optimiser state.

    Attributes:
      skipped: i32[], iterations whose update was not applied, as loss or gradients were not finite.
      bad_in_a_row: i32[], those since the last that was applied.
      ema: moving average of the parameters that are trained; None without.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    skipped: jax.Array
    bad_in_a_row: jax.Array
    ema: Any = None

    @property
    def variables(self) -> dict[str, Any]:
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def counters(self) -> dict[str, jax.Array]:
        return {"skipped": self.skipped, "bad_in_a_row": self.bad_in_a_row}

    @property
    def averaged(self) -> dict[str, Any]:
        """The variables with the average in the place of what is trained, if there is one: those to evaluate."""
        return {"params": {**self.params, **(self.ema or {})}, "batch_stats": self.batch_stats}


def build_model(config: Config) -> CFFM:
    """The model that a config names. InputError on an unknown name, or settings that fit no model."""
    m, offsets = config.model, config.data.offsets
    if not 1 <= m.num_classes < IGNORED_LABEL:
        raise InputError("--model.num_classes", f"is {m.num_classes}", f"give a number in 1..{IGNORED_LABEL - 1}")
    if len(offsets) != len(m.receptive) or min(offsets, default=0) < 1 or list(offsets) != sorted(offsets)[::-1]:
        remedy = f"give {len(m.receptive)} numbers of at least 1, the largest first; as many as --model.receptive"
        raise InputError("--data.offsets", f"is {' '.join(map(str, offsets))}", remedy)
    if config.eval.chunk < 1 or min(config.data.scale) < 1:
        option, value = (
            ("--eval.chunk", config.eval.chunk) if config.eval.chunk < 1 else ("--data.scale", config.data.scale)
        )
        raise InputError(option, f"is {value}", "give at least 1")
    try:
        reference_sources(m.receptive, m.pooling)
    except ValueError as error:
        raise InputError(
            "--model.receptive, --model.pooling", str(error), "see Tables 6 and 7 of the papers"
        ) from error
    if min(m.blocks, m.global_blocks) < 0:
        raise InputError("--model.blocks, --model.global_blocks", "less than 0", "give 0 for the papers' numbers")
    if len(m.norm_epsilons) not in (0, 2) or min(m.norm_epsilons, default=1.0) <= 0:
        problem = f"is {' '.join(map(str, m.norm_epsilons))}"
        raise InputError("--model.norm_epsilons", problem, "give two numbers above 0, or none for the backbone's own")
    if m.width < 1 or m.width % HEADS:
        raise InputError("--model.width", f"is {m.width}", f"give a multiple of the {HEADS} heads")
    try:
        return create_model(**dataclasses.asdict(m))
    except ValueError as error:
        raise InputError("--model.name", str(error), "name one of these") from error


def make_mesh(devices: int) -> Mesh:
    """A mesh over the first ``devices`` devices (0: all) with the batch's axis "data"."""
    available = jax.devices()
    if devices > len(available):
        raise InputError(
            "--train.devices", f"{devices} asked for, {len(available)} here", "ask for fewer, or 0 for all"
        )
    return Mesh(available[: devices or len(available)], (DATA_AXIS,))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def init_variables(model: CFFM, key: jax.Array) -> dict[str, Any]:
    """Random variables, compiled."""
    return jax.jit(draw_variables, static_argnums=0)(model, key)


def draw_variables(model: CFFM, key: jax.Array) -> dict[str, Any]:
    """Random variables; their shapes do not depend on the clips' size, so the smallest clip will do."""
    return model.init(key, jnp.zeros((1, len(model.sources) + 1, INPUT_MULTIPLE, INPUT_MULTIPLE, 3)))


def trained_parts(model: CFFM, params: dict[str, Any]) -> dict[str, Any]:
    """What training updates: everything, or, with global contexts, the global blocks and their classifier alone
    (CFFM++ section 5.1: the second stage)."""
    return {k: v for k, v in params.items() if not model.global_blocks or k.startswith(GLOBAL_PREFIX)}


def init_state(
    model: CFFM, variables: dict[str, Any], optimizer: optax.GradientTransformation, mesh: Mesh, *, ema: bool = False
) -> TrainState:
    """State before the first step, replicated over the mesh; what is not trained needs no optimiser state, nor an
    average, which starts (with ``ema``) as the initial parameters."""

    def start(variables: dict[str, Any]) -> TrainState:
        params = variables["params"]
        trained = trained_parts(model, params)
        opt_state = optimizer.init(trained)
        # Copied: a step is given the buffers of both, to write into them.
        average = jax.tree.map(jnp.copy, trained) if ema else None
        zero = jnp.zeros((), jnp.int32)
        return TrainState(zero, params, variables["batch_stats"], opt_state, zero, zero, average)

    # Restored weights lie on one device, and a jitted function does not move what it is given.
    variables = jax.device_put(variables, replicated(mesh))
    return jax.jit(start, out_shardings=replicated(mesh))(variables)
