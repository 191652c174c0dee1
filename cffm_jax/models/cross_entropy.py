"""The summed cross-entropy of logits that are enlarged to the labels' size, and its gradient, both
without the enlarged logits: they would be the largest array of a training step by far.

Value and gradient come together, in a form by platform. On GPUs every sum over the classes enlarges
the columns within itself, and a column's gradient is gathered from the pixels that read it: nothing
is larger than logits enlarged by rows. On CPUs, where XLA would write these out, a few rows at a
time are enlarged in the cache.

Where log-probabilities are enlarged in place of logits, the sum is linear in them: their product
with what the labels, shrunk by the transpose of the resize, weigh each of them.

Dimension key: B frames, H W sides of the labels, h w sides of the logits, K classes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Integer

from cffm_jax.config import IGNORED_LABEL
from cffm_jax.models import resize
from cffm_jax.models.by_platform import by_platform
from cffm_jax.models.gather import take

_CACHED = 2**23
"""Bytes of enlarged logits at a time on a CPU, if it is not of one row."""

Both = tuple[jax.Array, jax.Array]
"""A sum and its gradient."""


@jax.custom_vjp
def summed_cross_entropy(logits: Float32[Array, "B h w K"], labels: Integer[Array, "B H W"]) -> Float32[Array, ""]:
    """The sum over the pixels; ``labels`` are 0..K-1, or 255, which counts as zero. It can be
    differentiated backwards, once."""
    return _value_and_gradient(logits, labels)[0]


def _value_and_gradient(logits: jax.Array, labels: jax.Array) -> Both:
    return by_platform(logits, labels, cpu=in_parts, default=within_sums)


summed_cross_entropy.defvjp(_value_and_gradient, lambda gradient, factor: (factor * gradient, None))


def within_sums(logits: jax.Array, labels: jax.Array) -> Both:
    """Value and gradient, enlarging columns within each sum."""
    _, height, width = labels.shape
    classes, counted = jnp.arange(logits.shape[-1]), labels != IGNORED_LABEL
    low, high, share = resize.neighbours(logits.shape[2], width)

    def columns(rows: jax.Array, at: np.ndarray | slice = slice(None)) -> jax.Array:
        return resize.lerp(rows, 2, low[at], high[at], share[at])

    # Barriers, as XLA would compute what two sums share once, and write it to memory.
    apart = jax.lax.optimization_barrier
    rows = apart(resize.lerp(logits, 1, *resize.neighbours(logits.shape[1], height)))
    rows, largest = apart((rows, jnp.max(columns(rows), -1)))
    full = columns(rows)
    # A product, no choice between logits and zeros: XLA moves an array of zeros out of a caller's
    # loop, and writes it to memory. An infinite logit gives NaN: the step is not finite either way.
    own = jnp.sum(full * (labels[..., None] == classes), -1)
    logs = largest + jnp.log(jnp.sum(jnp.exp(full - largest[..., None]), -1))
    total = jnp.sum(jnp.where(counted, logs - own, 0.0))
    rows, logs = apart((rows, jnp.where(counted, logs, jnp.inf)))  # exp(-inf) is 0: not counted.
    by_rows = jnp.zeros_like(rows)
    for at, weight in zip(*resize.readers(logits.shape[2], width)):
        its_logs, its_labels = (take(x, 2, at)[..., None] for x in (logs, labels))
        by_rows += weight[:, None] * (jnp.exp(columns(rows, at) - its_logs) - (its_labels == classes))
    return total, resize.transposed(apart(by_rows), 1, logits.shape[1])


def in_parts(logits: jax.Array, labels: jax.Array) -> Both:
    """Value and gradient, some rows of the enlarged logits at a time."""
    count, height, width = labels.shape
    classes = logits.shape[-1]
    fitting = _CACHED // (4 * count * width * classes)
    size = max(n for n in range(1, height + 1) if height % n == 0 and n <= max(1, fitting))
    rows, by_logits = jax.vjp(lambda x: resize.resize_axis(x, 1, height), logits)

    def part(number: jax.Array) -> Both:
        its_rows, its_labels = (jax.lax.dynamic_slice_in_dim(x, number * size, size, 1) for x in (rows, labels))
        full, by_rows = jax.vjp(lambda x: resize.resize_axis(x, 2, width), its_rows)
        is_label, counted = its_labels[..., None] == jnp.arange(classes), its_labels[..., None] != IGNORED_LABEL
        largest = jnp.max(full, -1, keepdims=True)
        powers = jnp.exp(full - largest)
        sums = jnp.sum(powers, -1, keepdims=True)
        own = jnp.sum(jnp.where(is_label, full, 0.0), -1, keepdims=True)
        total = jnp.sum(jnp.where(counted, largest + jnp.log(sums) - own, 0.0))
        return total, *by_rows(jnp.where(counted, powers / sums - is_label, 0.0))

    totals, gradients = jax.lax.map(part, jnp.arange(height // size))
    return jnp.sum(totals), *by_logits(jnp.moveaxis(gradients, 0, 1).reshape(rows.shape))


def summed_of_log_probabilities(
    logits: Float32[Array, "B h w K"], labels: Integer[Array, "B H W"]
) -> Float32[Array, ""]:
    """As ``summed_cross_entropy``, but it is the log-softmax of the logits that is enlarged: the
    pixels' shares of the classes need not sum to 1."""
    _, height, width, classes = logits.shape
    by_rows = jnp.zeros((*labels.shape[:2], width, classes), jnp.float32)
    for at, weight in zip(*resize.readers(width, labels.shape[2])):
        by_rows += weight[:, None] * (take(labels, 2, at)[..., None] == jnp.arange(classes))
    weights = resize.transposed(jax.lax.optimization_barrier(by_rows), 1, height)
    return -jnp.sum(weights * jax.nn.log_softmax(logits))
