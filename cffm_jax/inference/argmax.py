"""From logits to masks, and to their probabilities, without the full-size logits."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cffm_jax.models.resize import resize_bilinear

Best = tuple[jax.Array, jax.Array, jax.Array]

_SLACK = 1e-5
"""Rounding of a resize at most, by the largest logit: a class left out must lie lower by more."""


def segmentation_masks(logits: jax.Array, input_size: tuple[int, int], output_size: tuple[int, int]) -> jax.Array:
    """The class of every pixel: logits are resized to the input's size, then to the original one.

    One class at a time with a running maximum: the same labels as an arg-max over full-size logits
    (the first of equals wins) at 1/K of the memory. Classes that can win nowhere are not resized;
    there are few others in a real picture.

    Args:
      logits: f32[N, h, w, K].
      input_size: (H, W) of the frames that the model saw.
      output_size: (H0, W0) of the original frames.

    Returns:
      u8[N, H0, W0].
    """
    if input_size[0] == output_size[0] and input_size[1] != output_size[1]:
        # Only the width is gathered, along the last axis number by number; along an axis before it,
        # row by row. On CPUs a third of the time.
        turned = segmentation_masks(jnp.swapaxes(logits, 1, 2), input_size[::-1], output_size[::-1])
        return jnp.swapaxes(turned, 1, 2)
    n, classes = logits.shape[0], logits.shape[-1]
    possible = _possible(logits, input_size, output_size)
    order = jnp.nonzero(possible, size=classes, fill_value=0)[0]
    planes = jnp.moveaxis(logits, -1, 0)

    def compare(best: Best) -> Best:
        i, score, label = best
        this = order[i]
        plane = jax.lax.dynamic_index_in_dim(planes, this, keepdims=False)
        plane = resize_bilinear(resize_bilinear(plane, input_size), output_size)
        return i + 1, jnp.maximum(score, plane), jnp.where(plane > score, this.astype(jnp.uint8), label)

    full = (n, *output_size)
    start = (jnp.zeros((), jnp.int32), jnp.full(full, -jnp.inf, logits.dtype), jnp.zeros(full, jnp.uint8))
    count = possible.sum(dtype=jnp.int32)
    return jax.lax.while_loop(lambda best: best[0] < count, compare, start)[2]


def winner_scores(logits: jax.Array, input_size: tuple[int, int], output_size: tuple[int, int]) -> jax.Array:
    """The softmax probability of every pixel's class in `segmentation_masks`, f32[N, H0, W0].

    One class at a time too, but all of them: with the maximum m so far goes the sum of
    exp(logit - m), and the winner's probability is 1 over the last sum. The arguments are those of
    `segmentation_masks`.
    """
    if input_size[0] == output_size[0] and input_size[1] != output_size[1]:
        # As above: faster where only the width is gathered.
        turned = winner_scores(jnp.swapaxes(logits, 1, 2), input_size[::-1], output_size[::-1])
        return jnp.swapaxes(turned, 1, 2)
    planes = jnp.moveaxis(logits.astype(jnp.float32), -1, 0)

    def add(i: jax.Array, so_far: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        largest, total = so_far
        plane = jax.lax.dynamic_index_in_dim(planes, i, keepdims=False)
        plane = resize_bilinear(resize_bilinear(plane, input_size), output_size)
        new = jnp.maximum(largest, plane)
        return new, total * jnp.exp(largest - new) + jnp.exp(plane - new)

    full = (logits.shape[0], *output_size)
    start = jnp.full(full, -jnp.inf, jnp.float32), jnp.zeros(full, jnp.float32)
    return 1 / jax.lax.fori_loop(0, logits.shape[-1], add, start)[1]


def _possible(logits: jax.Array, input_size: tuple[int, int], output_size: tuple[int, int]) -> jax.Array:
    """Which classes may be the best of a pixel: bool[K]. A pixel lies between the logits of a few
    neighbours; a class whose largest there is less than another's least is not its class."""
    n, h, w, classes = logits.shape
    if input_size[0] < h or input_size[1] < w:
        return jnp.ones(classes, jnp.bool_)  # A second resize then reaches further.
    upper = lower = logits
    for axis, (between, last) in enumerate(zip(input_size, output_size), 1):
        for _ in range(1 if between == last else 2):
            size = upper.shape[axis] - 1
            if size:
                pairs = [
                    (jax.lax.slice_in_dim(x, 0, size, axis=axis), jax.lax.slice_in_dim(x, 1, None, axis=axis))
                    for x in (upper, lower)
                ]
                upper, lower = jnp.maximum(*pairs[0]), jnp.minimum(*pairs[1])
    least = lower.max(-1, keepdims=True) - _SLACK * jnp.abs(logits).max()
    # So that a class without a number is not left out.
    return (~(upper < least)).any((0, 1, 2))
