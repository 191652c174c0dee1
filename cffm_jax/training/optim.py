"""AdamW of both papers (CFFM section 4.1), or SGD: rates, decay masks, warm-up, poly schedule."""

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
    """The encoder's rate at iteration i: ``(rate - least) * (1 - i / steps)^power + least``, while
    i < warm-up times ``1 - (1 - i / w)(1 - ratio)``."""

    def schedule(step: ArrayLike) -> jax.Array:
        i = jnp.asarray(step, jnp.float32)
        fall = config.rate - config.least_rate
        poly = fall * jnp.maximum(1 - i / steps, 0.0) ** config.power + config.least_rate
        missing = jnp.maximum(1 - i / max(config.warmup_steps, 1), 0.0) if config.warmup_steps else 0.0
        return poly * (1 - missing * (1 - config.warmup_ratio))

    return schedule


def make_optimizer(config: OptimConfig, steps: int, model: Method) -> optax.GradientTransformation:
    """AdamW, whose decay is decoupled and follows each group's learning rate, or SGD, both as
    PyTorch's.

    ``model`` says which parameters are the encoder's norms, and which have the encoder's rate.
    """
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    decay = optax.add_decayed_weights(config.weight_decay, functools.partial(_where, _decaying(config, model)))
    if config.kind == "sgd":
        direction = (decay, optax.trace(config.momentum))
    else:
        direction = (optax.scale_by_adam(*config.betas, eps=1e-8), decay)
    return optax.chain(
        *clip,
        *direction,
        optax.masked(
            optax.scale(config.head_multiplier),
            functools.partial(_where, lambda path: model.rate_group(path) == "head"),
        ),
        optax.scale_by_learning_rate(learning_rate(config, steps)),
    )


def _decaying(config: OptimConfig, model: Method) -> Callable[[list[str]], bool]:
    """Whether the parameter of a path decays."""
    match config.decay:
        case "all":
            return lambda path: True
        case "but_biases":
            return lambda path: path[-1] != "bias"
        case "but_norms_and_biases":
            return lambda path: model.decays(path) and path[-1] not in ("scale", "bias")
        case "but_encoder_norms":
            return model.decays


def _where(holds: Callable[[list[str]], bool], params: Any) -> Any:
    """A tree of bool: whether a function of the path holds for each parameter."""
    return jax.tree_util.tree_map_with_path(lambda path, _: holds([str(key.key) for key in path]), params)
