"""One training step: a pure function of state and batch, jitted over a mesh."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from cffm_jax.frames import normalise
from cffm_jax.losses import clip_loss, cross_entropy
from cffm_jax.models.cffm import CFFM
from cffm_jax.training.state import TrainState, batch_sharded, replicated, trained_parts

Batch = dict[str, jax.Array]
Step = Callable[[TrainState, Batch, jax.Array], tuple[TrainState, dict[str, jax.Array]]]


def make_train_step(
    model: CFFM,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    frame_loss_weight: float,
    bad_steps: int = 10,
    ema: float = 0.0,
) -> Step:
    """The jitted step: (state, batch, key) -> (state, metrics). The old state's buffers are donated.

    Where loss or gradients are not finite nothing is learnt, see ``next_state``.

    The batch (frames u8[B, T, H, W, 3], labels u8[B, L, H, W], size i32[B, 2], with global contexts prototypes
    f32[B, P, C]) is sharded over the mesh, the state is replicated. Means over the batch, BatchNorm's included, are
    those of the global batch. ``key`` is the run's; the step is folded in.

    A model with global contexts trains its global blocks and their classifier alone, on the cross-entropy of the
    global logits (CFFM++ section 4.2): the rest of it runs as in evaluation, on the targets alone, and has neither a
    backward pass nor optimiser state.
    """
    losses = functools.partial(_clip_losses, model, frame_loss_weight)
    if model.global_blocks:
        losses = functools.partial(_global_losses, model)

    def step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        rngs = {"dropout": jax.random.fold_in(key, state.step)}
        trained = trained_parts(model, state.params)

        def loss_of(trained: Any) -> tuple[jax.Array, Any]:
            variables = {"params": {**state.params, **trained}, "batch_stats": state.batch_stats}
            return losses(variables, batch, rngs)

        (loss, (parts, batch_stats)), grads = jax.value_and_grad(loss_of, has_aux=True)(trained)
        updates, opt_state = optimizer.update(grads, state.opt_state, trained)
        params = {**state.params, **optax.apply_updates(trained, updates)}
        norm = optax.tree.norm(grads)  # Not finite as soon as one gradient is not.
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        state = next_state(state, finite, params, batch_stats, opt_state, bad_steps, ema)
        return state, {"loss": loss, **parts, "gradient_norm": norm, **state.counters}

    whole, split = replicated(mesh), batch_sharded(mesh)
    return jax.jit(step, in_shardings=(whole, split, whole), out_shardings=whole, donate_argnums=0)


def next_state(
    state: TrainState,
    finite: jax.Array,
    params: Any,
    batch_stats: Any,
    opt_state: optax.OptState,
    bad_steps: int,
    ema: float = 0.0,
) -> TrainState:
    """The state after an iteration, of which ``finite`` bool[] tells whether its update may be applied.

    Otherwise only the counters move on. After ``bad_steps`` such iterations in a row no update is applied any more,
    until the host, which looks now and then, stops the run: what is learnt stays that of the last good one.

    The average, where the state has one, keeps the share ``ema`` of itself: ``ema * average + (1 - ema) * params``.
    """
    average = state.ema
    if average is not None:
        average = optax.incremental_update({part: params[part] for part in average}, average, 1 - ema)
    applied = finite & (state.bad_in_a_row < bad_steps)
    learnt = jax.tree.map(
        lambda new, old: jnp.where(applied, new, old),
        (params, batch_stats, opt_state, average),
        (state.params, state.batch_stats, state.opt_state, state.ema),
    )
    left_out = (~applied).astype(jnp.int32)
    bad_in_a_row = (state.bad_in_a_row + 1) * left_out
    *learnt, average = learnt
    return TrainState(state.step + 1, *learnt, state.skipped + left_out, bad_in_a_row, average)


Losses = tuple[jax.Array, tuple[dict[str, jax.Array], Any]]
"""Loss f32[], and its parts by name with the BatchNorm statistics after the step."""


def _clip_losses(model: CFFM, frame_loss_weight: float, variables: Any, batch: Batch, rngs: Any) -> Losses:
    clips = normalise(batch["frames"], batch["size"])
    outputs, updates = model.apply(
        variables, clips, train=True, outputs="all", mutable=["batch_stats"], rngs=rngs
    )  # fmt: skip
    loss, parts = clip_loss(outputs, batch["labels"], frame_loss_weight)
    return loss, ({"clip_loss": parts.clip, "frame_loss": parts.frames}, updates["batch_stats"])


def _global_losses(model: CFFM, variables: Any, batch: Batch, rngs: Any) -> Losses:
    targets = normalise(batch["frames"][:, -1], batch["size"])
    logits = model.apply(variables, targets, batch["prototypes"], method="train_global", rngs=rngs)
    return cross_entropy(logits, batch["labels"][:, -1]), ({}, variables["batch_stats"])
