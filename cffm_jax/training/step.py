"""One training step: a pure function of state and batch, jitted over a mesh."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from cffm_jax.frames import normalise
from cffm_jax.losses import clip_loss
from cffm_jax.models.cffm import CFFM
from cffm_jax.training.state import TrainState, batch_sharded, replicated

Batch = dict[str, jax.Array]
Step = Callable[[TrainState, Batch, jax.Array], tuple[TrainState, dict[str, jax.Array]]]


def make_train_step(
    model: CFFM, optimizer: optax.GradientTransformation, mesh: Mesh, *, frame_loss_weight: float
) -> Step:
    """The jitted step: (state, batch, key) -> (state, metrics). The old state's buffers are donated.

    The batch (frames u8[B, T, H, W, 3], labels u8[B, T, H, W], size i32[B, 2]) is sharded over the mesh, the state is
    replicated.
    Means over the batch, BatchNorm's included, are those of the global batch. ``key`` is the run's; the step is
    folded in.
    """

    def step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        clips = normalise(batch["frames"], batch["size"])
        rngs = {"dropout": jax.random.fold_in(key, state.step)}

        def loss_of(params: Any) -> tuple[jax.Array, Any]:
            outputs, updates = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                clips, train=True, outputs="all", mutable=["batch_stats"], rngs=rngs,
            )  # fmt: skip
            loss, parts = clip_loss(outputs, batch["labels"], frame_loss_weight)
            return loss, (parts, updates["batch_stats"])

        (loss, (parts, batch_stats)), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {
            "loss": loss, "clip_loss": parts.clip, "frame_loss": parts.frames, "gradient_norm": optax.tree.norm(grads)
        }  # fmt: skip
        return TrainState(state.step + jnp.int32(1), params, batch_stats, opt_state), metrics

    whole, split = replicated(mesh), batch_sharded(mesh)
    return jax.jit(step, in_shardings=(whole, split, whole), out_shardings=whole, donate_argnums=0)
