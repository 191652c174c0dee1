"""The training loss (CFFM section 4.1): cross-entropy of the clip's logits plus half of every frame's own.

Dimension key: B clips, T frames, the last L of them labelled, H W sides of the labels, h w sides of the logits,
K classes.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from cffm_jax.config import IGNORED_LABEL
from cffm_jax.models.resize import resize_bilinear


class Logits(Protocol):
    """What the loss reads of a model's outputs."""

    @property
    def logits(self) -> jax.Array: ...

    @property
    def frame_logits(self) -> jax.Array: ...


class LossParts(NamedTuple):
    """The two cross-entropies, f32[] each, before weighting."""

    clip: jax.Array
    frames: jax.Array


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean over ALL pixels of the cross-entropy of logits enlarged to the labels' size; ignored pixels count as zero.

    Args:
      logits: f32[B, h, w, K].
      labels: integer[B, H, W], 0..K-1 or 255.

    Returns:
      f32[].
    """
    _, height, width = labels.shape

    # The enlarged logits are the largest array of a training step: recomputed backwards rather than kept.
    @jax.checkpoint
    def total(logits: jax.Array) -> jax.Array:
        full = resize_bilinear(logits.astype(jnp.float32), (height, width))
        classes = jnp.arange(full.shape[-1])
        own = jnp.sum(jnp.where(labels[..., None] == classes, full, 0.0), -1)
        loss = jax.nn.logsumexp(full, axis=-1) - own
        return jnp.sum(jnp.where(labels == IGNORED_LABEL, 0.0, loss))

    return total(logits) / labels.size


def clip_loss(outputs: Logits, labels: jax.Array, frame_weight: float = 0.5) -> tuple[jax.Array, LossParts]:
    """Loss of a batch of clips.

    Args:
      outputs: of ``model.apply(..., method="clip_outputs")``: logits f32[B, h, w, K] and frame_logits
        f32[B, T, h, w, K].
      labels: integer[B, L, H, W] of the last L frames, the target last; 0..K-1, 255 is ignored. The per-frame
        cross-entropy is the mean over these: where the target alone is labelled, as in Cityscapes, over it alone.
      frame_weight: weight of the per-frame cross-entropy.

    Returns:
      The loss f32[] and its two parts.
    """
    clip = cross_entropy(outputs.logits, labels[:, -1])

    # One frame of each clip at a time: a quarter of the memory, and the batch axis stays whole for sharding.
    def frame(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
        return cross_entropy(*pair)

    frame_logits = outputs.frame_logits[:, -labels.shape[1] :]
    frames = jnp.mean(jax.lax.map(frame, (jnp.moveaxis(frame_logits, 1, 0), jnp.moveaxis(labels, 1, 0))))
    return clip + frame_weight * frames, LossParts(clip, frames)
