"""Logits of targets by name: the model's own, and those of the smaller methods in it."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cffm_jax.config import PrototypeConfig
from cffm_jax.models.cffm import CFFM, GLOBAL_WEIGHT
from cffm_jax.models.kmeans import RunningClusters, start_running, update_running

FRAME_ROW = "per-frame (SegFormer)"


def row_names(model: CFFM, prototypes: str = "video") -> tuple[str, ...]:
    """What a model's logits are called, best first; ``prototypes`` as ``EvalConfig.prototypes``.

    The rows of CFFM++ are CFFM++, CFFM and the per-frame logits, all of the same network.
    """
    whole = {(True, True): "CFFM++", (False, True): "CFFM+"}.get((bool(model.local_blocks), bool(model.global_blocks)))
    names = [whole, f"{whole}, causal"] if whole else []
    names = {"video": names[:1], "causal": names[1:], "both": names}[prototypes]
    return (*names, *(["CFFM"] if model.local_blocks else []), FRAME_ROW)


def row_logits(
    bound: CFFM,
    fine: jax.Array,
    coarse: jax.Array,
    mined: jax.Array | None,
    has_reference: jax.Array,
    contexts: dict[str, jax.Array],
) -> dict[str, jax.Array]:
    """Logits f32[n, H/4, W/4, K] of n targets by ``row_names``.

    Args:
      bound: the module with its weights.
      fine: [n, H/4, W/4, C], the targets' features.
      coarse: [n, h, w, C], the same at stride 8.
      mined: [n, h, w, C], the targets after the local blocks, if there are any.
      has_reference: bool[n]; frames without references get their own logits in place of CFFM's.
      contexts: prototypes f32[n, P, C] of each row that has global contexts.
    """
    logits = {FRAME_ROW: bound.classify_frames(fine)}
    local = logits[FRAME_ROW]
    if bound.local_blocks:
        mined_logits = bound.classify_clip(coarse, mined)
        # Static contexts are there from the first frame on.
        has_reference = has_reference | bound.static
        local = logits["CFFM"] = jnp.where(has_reference[:, None, None, None], mined_logits, local)
    for row, each in contexts.items():
        logits[row] = local + GLOBAL_WEIGHT * bound.classify_global(bound.mine_global(coarse, each))
    return logits


def causal_prototypes(
    running: RunningClusters, features: jax.Array, index: jax.Array, plan: PrototypeConfig
) -> tuple[RunningClusters, jax.Array]:
    """Prototypes of the frames so far, each frame's own included: [n, h, w, C] -> f32[n, P, C]."""

    def take_in(running: RunningClusters, item: tuple[jax.Array, jax.Array]) -> tuple[RunningClusters, jax.Array]:
        frame, t = item
        tokens = frame.reshape(-1, frame.shape[-1]).astype(jnp.float32)
        branches = (
            lambda: running,
            lambda: update_running(running, tokens, memory=plan.memory),
            lambda: start_running(jax.random.key(plan.seed), tokens, plan.count),
        )
        choice = jnp.where(t == 0, 2, jnp.where(t % plan.interval == 0, 1, 0))
        running = jax.lax.switch(choice, branches)
        return running, running.centres

    return jax.lax.scan(take_in, running, (features, index))
