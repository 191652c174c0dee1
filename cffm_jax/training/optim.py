"""AdamW of both papers (CFFM section 4.1): two rates, decay masks, warm-up and poly schedule."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from cffm_jax.config import OptimConfig
from cffm_jax.models.methods.method import Method


def learning_rate(config: OptimConfig, steps: int) -> Callable[[ArrayLike], jax.Array]:
    """The encoder's rate at iteration i: ``rate * (1 - i / steps)^power``, while i < warm-up times
    ``1 - (1 - i / w)(1 - ratio)``."""

    def schedule(step: ArrayLike) -> jax.Array:
        i = jnp.asarray(step, jnp.float32)
        poly = config.rate * jnp.maximum(1 - i / steps, 0.0) ** config.power
        missing = jnp.maximum(1 - i / max(config.warmup_steps, 1), 0.0) if config.warmup_steps else 0.0
        return poly * (1 - missing * (1 - config.warmup_ratio))

    return schedule


def make_optimizer(config: OptimConfig, steps: int, model: Method) -> optax.GradientTransformation:
    """AdamW whose decay is decoupled and follows each group's learning rate, as PyTorch's.

    ``model`` says which parameters decay, and which have the encoder's rate.
    """
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    return optax.chain(
        *clip,
        optax.scale_by_adam(*config.betas, eps=1e-8),
        optax.add_decayed_weights(config.weight_decay, functools.partial(_where, model.decays)),
        optax.masked(
            optax.scale(config.head_multiplier),
            functools.partial(_where, lambda path: model.rate_group(path) == "head"),
        ),
        optax.scale_by_learning_rate(learning_rate(config, steps)),
    )


def _where(holds: Callable[[list[str]], bool], params: Any) -> Any:
    """A tree of bool: whether a function of the path holds for each parameter."""
    return jax.tree_util.tree_map_with_path(lambda path, _: holds([str(key.key) for key in path]), params)
