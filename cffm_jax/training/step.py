"""One training step: a pure function of state and batch, jitted over a mesh."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cffm_jax.checkpoints.state import TrainState
from cffm_jax.models.criterion import Criterion
from cffm_jax.models.losses import cross_entropy
from cffm_jax.models.methods.method import Batch, Method
from cffm_jax.models.variables import trained_parts
from cffm_jax.training.sharding import FSDP_AXIS, batch_sharded, replicated, state_sharded

Step = Callable[[TrainState, Batch, jax.Array], tuple[TrainState, dict[str, jax.Array]]]


def make_train_step(
    model: Method,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    frame_loss_weight: float,
    criterion: Criterion = cross_entropy,
    bad_steps: int = 10,
    ema: float = 0.0,
    accumulate: int = 1,
) -> Step:
    """The jitted step (state, batch, key) -> (state, metrics); donates the old state's buffers.

    Where loss or gradients are not finite nothing is learnt, see ``next_state``.

    The batch (frames u8[B, T, H, W, 3], labels u8[B, L, H, W], size i32[B, 2], with global contexts
    prototypes f32[B, P, C]) is sharded over the mesh, the state is replicated, or split over the
    axis "fsdp" as ``state_sharded`` says: then the parameters are collected for the step, and each
    device updates its part of them. Means over the batch, BatchNorm's included, are those of the
    global batch. ``key`` is the run's; the step is folded in.

    With ``accumulate`` = A the batch is computed in A parts, clips i, i + A, i + 2A, ... on all
    devices: the gradients are those of the mean loss, but BatchNorm sees a part at a time, and its
    running statistics take in A.

    What ``Method.is_trained`` leaves out has neither a backward pass nor optimiser state.
    """
    whole, split, fsdp = replicated(mesh), batch_sharded(mesh), FSDP_AXIS in mesh.shape

    def placed(tree: Any) -> Any:
        """Each device keeps its part."""
        return jax.lax.with_sharding_constraint(tree, state_sharded(mesh, tree)) if fsdp else tree

    def step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(key, state.step)
        params = jax.lax.with_sharding_constraint(state.params, whole) if fsdp else state.params
        trained = trained_parts(model, state.params)

        def gradients(batch_stats: Any, batch: Batch, key: jax.Array) -> Any:
            def loss_of(trained: Any) -> tuple[jax.Array, Any]:
                variables = {"params": {**params, **trained}, "batch_stats": batch_stats}
                (loss, parts), updates = model.apply(
                    variables, batch, frame_loss_weight, criterion,
                    method="loss", mutable=["batch_stats"], rngs={"dropout": key},
                )  # fmt: skip
                return loss, (parts, updates["batch_stats"])

            return jax.value_and_grad(loss_of, has_aux=True)(trained_parts(model, params))

        if accumulate == 1:
            (loss, (parts, batch_stats)), grads = gradients(state.batch_stats, batch, key)
        else:
            batch = _in_parts(batch, accumulate, split)
            (loss, (parts, batch_stats)), grads = _accumulated(gradients, state.batch_stats, batch, key)
        grads = placed(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, trained)
        updated = cast(dict[str, Any], optax.apply_updates(trained, updates))  # Of trained's structure.
        params = {**state.params, **updated}
        norm = optax.tree.norm(grads)  # Not finite as soon as one gradient is not.
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        state = placed(next_state(state, finite, params, batch_stats, opt_state, bad_steps, ema))
        return state, {"loss": loss, **parts, "gradient_norm": norm, **state.counters}

    # None: as the state comes, which ``placed`` keeps.
    ins, outs = ((None, split, whole), (None, whole)) if fsdp else ((whole, split, whole), whole)
    return jax.jit(step, in_shardings=ins, out_shardings=outs, donate_argnums=0)


def _in_parts(batch: Batch, parts: int, sharding: NamedSharding) -> Batch:
    """[B, ...] -> [A, B / A, ...]: part i is clips i, i + A, ...; so no clip changes its device,
    and what a part holds does not depend on their number."""
    kept = NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec))

    def cut(array: jax.Array) -> jax.Array:
        array = jnp.moveaxis(array.reshape(-1, parts, *array.shape[1:]), 1, 0)
        return jax.lax.with_sharding_constraint(array, kept)

    return jax.tree.map(cut, batch)


def _accumulated(gradients: Callable[..., Any], batch_stats: Any, batch: Batch, key: jax.Array) -> Any:
    """Results of ``gradients``: loss and gradients as means over parts, statistics carried on."""
    count = len(batch["frames"])

    def add(carried: Any, part: tuple[Batch, jax.Array]) -> tuple[Any, None]:
        batch_stats, sums = carried
        batch, i = part
        (loss, (parts, batch_stats)), grads = gradients(batch_stats, batch, jax.random.fold_in(key, i))
        return (batch_stats, jax.tree.map(jnp.add, sums, (loss, parts, grads))), None

    first = jax.tree.map(lambda array: array[0], batch)
    (loss, (parts, _)), grads = jax.eval_shape(gradients, batch_stats, first, key)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (loss, parts, grads))
    (batch_stats, sums), _ = jax.lax.scan(add, (batch_stats, zeros), (batch, jnp.arange(count)))
    loss, parts, grads = jax.tree.map(lambda total: total / count, sums)
    return (loss, (parts, batch_stats)), grads


def next_state(
    state: TrainState,
    finite: jax.Array,
    params: Any,
    batch_stats: Any,
    opt_state: optax.OptState,
    bad_steps: int,
    ema: float = 0.0,
) -> TrainState:
    """The state after an iteration; ``finite`` bool[]: whether its update may be applied.

    Otherwise only the counters move on. After ``bad_steps`` of these in a row nothing is applied
    until the host, which looks now and then, stops the run: the last good state is what stays.

    The state's average, if it has one, becomes ``ema * average + (1 - ema) * params``.
    """
    average = state.ema
    if average is not None:
        average = optax.incremental_update({part: params[part] for part in average}, average, 1 - ema)
    applied = finite & (state.bad_in_a_row < bad_steps)
    params, batch_stats, opt_state, average = jax.tree.map(
        lambda new, old: jnp.where(applied, new, old),
        (params, batch_stats, opt_state, average),
        (state.params, state.batch_stats, state.opt_state, state.ema),
    )
    left_out = (~applied).astype(jnp.int32)
    bad_in_a_row = (state.bad_in_a_row + 1) * left_out
    skipped = state.skipped + left_out
    return TrainState(state.step + 1, params, batch_stats, opt_state, skipped, bad_in_a_row, average)
