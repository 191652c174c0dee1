"""Losses of logits and labels beside the papers' cross-entropy: class weights, label smoothing,
focal, dice, OHEM, and sums of them by weight.

Ignored pixels have no part in any of them. Dimension key: B frames, H W sides of the labels, h w
sides of the logits, K classes, p the predicted probabilities, y a pixel's label.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Integer

from cffm_jax.config import IGNORED_LABEL, LossConfig
from cffm_jax.models.losses import cross_entropy, pixels_of_mean
from cffm_jax.models.resize import resize_bilinear

Criterion = Callable[[Float[Array, "B h w K"], Integer[Array, "B H W"]], Float32[Array, ""]]


def make_criterion(settings: LossConfig) -> Criterion:
    """The loss that the settings ask for: a function of logits and labels (0..K-1, 255 ignored)."""
    if settings == LossConfig():
        return cross_entropy
    form = {"resized": settings.resized, "mean": settings.mean}
    alone = dataclasses.replace(LossConfig(), **form)
    return functools.partial(cross_entropy, **form) if settings == alone else WeightedSum(settings)


@dataclasses.dataclass(frozen=True)
class WeightedSum:
    """The sum of the losses by their weights, each of logits, or log-probabilities, enlarged to the
    labels' size.

    Cross-entropy and focal loss are means over ALL pixels, as the papers', or the labelled ones
    (OHEM: over those that it keeps), whatever the classes weigh; dice is the mean over the classes
    that the labels have. Log-probabilities that were enlarged stand for a pixel's as they are,
    though their shares need not sum to 1.
    """

    settings: LossConfig

    def __call__(self, logits: Float[Array, "B h w K"], labels: Integer[Array, "B H W"]) -> Float32[Array, ""]:
        _, height, width = labels.shape

        # The enlarged logits, which ``cross_entropy`` does without, are recomputed backwards rather
        # than kept.
        @jax.checkpoint
        def total(logits: jax.Array) -> jax.Array:
            logits = logits.astype(jnp.float32)
            if self.settings.resized == "logits":
                logs = jax.nn.log_softmax(resize_bilinear(logits, (height, width)))
            else:
                logs = resize_bilinear(jax.nn.log_softmax(logits), (height, width))
            return self._of_full_size(logs, labels)

        return total(logits)

    def _of_full_size(self, logs: Float32[Array, "B H W K"], labels: Integer[Array, "B H W"]) -> Float32[Array, ""]:
        plan, counted = self.settings, labels != IGNORED_LABEL
        is_label = labels[..., None] == jnp.arange(logs.shape[-1])
        of_label = jnp.sum(jnp.where(is_label, logs, 0.0), -1)
        share = plan.label_smoothing
        weights = jnp.asarray(plan.class_weights or (1.0,) * logs.shape[-1], jnp.float32)
        of_pixel = jnp.sum(jnp.where(is_label, weights, 0.0), -1)
        kept, pixels = self._kept(jnp.exp(of_label), labels)

        def mean(loss: jax.Array) -> jax.Array:
            return jnp.sum(jnp.where(kept, loss, 0.0)) / pixels

        loss = jnp.float32(0)
        if plan.cross_entropy:
            smoothed = -(1 - share) * of_pixel * of_label - share * jnp.mean(weights * logs, -1)
            loss += plan.cross_entropy * mean(smoothed)
        if plan.focal:
            # Where p is 1 its rounding may be above, of which no power has a gradient.
            missing = jnp.maximum(-jnp.expm1(of_label), 1e-7)
            loss += plan.focal * mean(-of_pixel * missing**plan.focal_gamma * of_label)
        if plan.dice:
            loss += plan.dice * dice(jnp.exp(logs), is_label & counted[..., None], counted)
        return loss

    def _kept(
        self, right: Float32[Array, "B H W"], labels: Integer[Array, "B H W"]
    ) -> tuple[Bool[Array, "B H W"], int | Array]:
        """The pixels that count, and what their sum is divided by. OHEM keeps those whose label has
        a probability below its threshold, and in any case the ``ohem_kept`` least certain."""
        plan, counted = self.settings, labels != IGNORED_LABEL
        if not plan.ohem_threshold:
            return counted, pixels_of_mean(labels, plan.mean)
        right = jnp.where(counted, jax.lax.stop_gradient(right), jnp.inf)
        hardest = jnp.sort(right.reshape(-1))[min(plan.ohem_kept, right.size) - 1]
        kept = counted & (right <= jnp.maximum(hardest, plan.ohem_threshold))
        return kept, jnp.maximum(jnp.sum(kept), 1).astype(jnp.float32)


def dice(
    shares: Float32[Array, "B H W K"], is_label: Bool[Array, "B H W K"], counted: Bool[Array, "B H W"]
) -> Float32[Array, ""]:
    """1 - 2 sum(p y) / (sum(p) + sum(y)) over all counted pixels, the mean over the classes that
    have any; 0 without one."""
    pixels = (0, 1, 2)
    shares = jnp.where(counted[..., None], shares, 0.0)
    labelled = jnp.sum(is_label, pixels).astype(jnp.float32)
    overlap = jnp.sum(jnp.where(is_label, shares, 0.0), pixels)
    present = labelled > 0
    lost = 1 - 2 * overlap / jnp.maximum(jnp.sum(shares, pixels) + labelled, 1e-7)
    return jnp.sum(jnp.where(present, lost, 0.0)) / jnp.maximum(jnp.sum(present), 1)
