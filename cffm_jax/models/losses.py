"""The training loss (CFFM section 4.1): cross-entropy of the clip plus half of every frame's own.

Dimension key: B clips, T frames, the last L of them labelled, H W sides of the labels, h w sides of
the logits, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Integer

from cffm_jax.config import IGNORED_LABEL
from cffm_jax.models.cross_entropy import summed_cross_entropy, summed_of_log_probabilities


@runtime_checkable
class Logits(Protocol):
    """Outputs of a model that the loss reads."""

    @property
    def logits(self) -> Float[Array, "B h w K"]: ...

    @property
    def frame_logits(self) -> Float[Array, "B T h w K"]: ...


class LossParts(NamedTuple):
    """The two cross-entropies, before weighting."""

    clip: Float32[Array, ""]
    frames: Float32[Array, ""]


def cross_entropy(
    logits: Float[Array, "B h w K"],
    labels: Integer[Array, "B H W"],
    resized: Literal["logits", "log_probabilities"] = "logits",
    mean: Literal["all", "labelled"] = "all",
) -> Float32[Array, ""]:
    """Mean over ALL pixels of the cross-entropy of logits enlarged to the labels' size.

    Args:
      labels: 0..K-1, or 255 where ignored, which counts as zero.
      resized: see ``LossConfig``; log_probabilities and labelled are the VSPW baselines'.
      mean: likewise; 0 without a labelled pixel.
    """
    summed = summed_cross_entropy if resized == "logits" else summed_of_log_probabilities
    return summed(logits.astype(jnp.float32), labels) / pixels_of_mean(labels, mean)


def pixels_of_mean(labels: Integer[Array, "B H W"], mean: Literal["all", "labelled"]) -> int | Float32[Array, ""]:
    """The number of pixels that a mean is over, at least 1."""
    if mean == "all":
        return labels.size
    return jnp.maximum(jnp.sum(labels != IGNORED_LABEL), 1).astype(jnp.float32)


def clip_loss(
    outputs: Logits,
    labels: Integer[Array, "B L H W"],
    frame_weight: float | Float[Array, ""] = 0.5,
    criterion: Callable[[Array, Array], Array] | None = None,
) -> tuple[Float32[Array, ""], LossParts]:
    """Loss of a batch of clips.

    Args:
      outputs: of ``model.apply(..., method="clip_outputs")``.
      labels: of the last L frames, the target last; 0..K-1, 255 is ignored. The per-frame
        cross-entropy is the mean over these (in Cityscapes the target alone).
      frame_weight: weight of the per-frame cross-entropy.
      criterion: the loss of one set of logits and labels; None: the papers'.

    Returns:
      The loss and its two parts.
    """
    of_pair = criterion or cross_entropy
    clip = of_pair(outputs.logits, labels[:, -1])

    # One frame of each clip at a time: a quarter of the memory, and the batch axis stays whole for
    # sharding.
    def frame(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
        return of_pair(*pair)

    frame_logits = outputs.frame_logits[:, -labels.shape[1] :]
    frames = jnp.mean(jax.lax.map(frame, (jnp.moveaxis(frame_logits, 1, 0), jnp.moveaxis(labels, 1, 0))))
    return clip + frame_weight * frames, LossParts(clip, frames)
