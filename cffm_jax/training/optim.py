"""AdamW of both papers (CFFM section 4.1): two learning rates, decay masks, warm-up and poly schedule."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cffm_jax.config import OptimConfig
from cffm_jax.models.encoders.names import ENCODER, backbone_of


def learning_rate(config: OptimConfig, steps: int) -> optax.Schedule:
    """The encoder's rate at iteration i: ``rate * (1 - i / steps)^power``, while i < warm-up times ``1 - (1 - i /
    w)(1 - ratio)``."""

    def schedule(step: jax.Array) -> jax.Array:
        i = jnp.asarray(step, jnp.float32)
        poly = config.rate * jnp.maximum(1 - i / steps, 0.0) ** config.power
        missing = jnp.maximum(1 - i / max(config.warmup_steps, 1), 0.0) if config.warmup_steps else 0.0
        return poly * (1 - missing * (1 - config.warmup_ratio))

    return schedule


def _names(path: tuple[Any, ...]) -> list[str]:
    return [str(key.key) for key in path]


def decay_mask(params: Any, backbone: str) -> Any:
    """True where weight decay applies: everywhere but in the encoder's norms and the layer scales of its branches."""
    family = backbone_of(backbone)

    def decays(path: tuple[Any, ...], _: Any) -> bool:
        top, *below = _names(path)
        return top != ENCODER or family.decays("/".join(below))

    return jax.tree_util.tree_map_with_path(decays, params)


def head_mask(params: Any) -> Any:
    """True outside the encoder."""
    return jax.tree_util.tree_map_with_path(lambda path, _: _names(path)[0] != ENCODER, params)


def make_optimizer(config: OptimConfig, steps: int, backbone: str) -> optax.GradientTransformation:
    """AdamW whose decay is decoupled and follows each group's learning rate, as PyTorch's, for a model's parameters.

    Args:
      config: rates, decay and schedule.
      steps: of the whole training.
      backbone: of the model, one of ``encoders.names()``.
    """
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    return optax.chain(
        *clip,
        optax.scale_by_adam(*config.betas, eps=1e-8),
        optax.add_decayed_weights(config.weight_decay, functools.partial(decay_mask, backbone=backbone)),
        optax.masked(optax.scale(config.head_multiplier), head_mask),
        optax.scale_by_learning_rate(learning_rate(config, steps)),
    )
