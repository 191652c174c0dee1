"""From logits to masks, and to their probabilities, without the full-size logits.

In two forms. On CPUs one class at a time: at 1/K of the memory, and in the cache. On GPUs, where
each class would be some launches, and a wait of the host for how many there are, all at once: the
logits are resized along one axis, and along the other within what looks for the largest.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from cffm_jax.models import resize
from cffm_jax.models.by_platform import by_platform
from cffm_jax.models.operators import operator

Best = tuple[jax.Array, jax.Array, jax.Array]

_TOGETHER = 2**30
"""Bytes of logits enlarged along one axis, of which all frames of a call are compared together."""
_SLACK = 1e-5
"""Rounding of a resize at most, by the largest logit: a class left out must lie lower by more."""


@operator
def segmentation_masks(logits: jax.Array, input_size: tuple[int, int], output_size: tuple[int, int]) -> jax.Array:
    """The class of every pixel: logits are resized to the input's size, then to the original one.

    The labels are those of an arg-max over full-size logits: the first of equals wins. (Of logits
    that are not finite the forms may give others.)

    Args:
      logits: f32[N, h, w, K].
      input_size: (H, W) of the frames that the model saw.
      output_size: (H0, W0) of the original frames.

    Returns:
      u8[N, H0, W0].
    """
    sizes = {"input_size": input_size, "output_size": output_size}
    by_class, at_once = (functools.partial(form, **sizes) for form in (masks_by_class, masks_at_once))
    return by_platform(logits, cpu=by_class, default=at_once)


def winner_scores(logits: jax.Array, input_size: tuple[int, int], output_size: tuple[int, int]) -> jax.Array:
    """The softmax probability of every pixel's class in `segmentation_masks`, f32[N, H0, W0]. The
    arguments are those of `segmentation_masks`."""
    sizes = {"input_size": input_size, "output_size": output_size}
    by_class, at_once = (functools.partial(form, **sizes) for form in (scores_by_class, scores_at_once))
    return by_platform(logits.astype(jnp.float32), cpu=by_class, default=at_once)


def masks_by_class(logits: jax.Array, input_size: tuple[int, int], output_size: tuple[int, int]) -> jax.Array:
    """`segmentation_masks` with a running maximum. Classes that can win nowhere are not resized;
    there are few others in a real picture."""
    if input_size[0] == output_size[0] and input_size[1] != output_size[1]:
        # Only the width is gathered, along the last axis number by number; along an axis before it,
        # row by row. A third of the time.
        turned = masks_by_class(jnp.swapaxes(logits, 1, 2), input_size[::-1], output_size[::-1])
        return jnp.swapaxes(turned, 1, 2)
    n, classes = logits.shape[0], logits.shape[-1]
    possible = _possible(logits, input_size, output_size)
    order = jnp.nonzero(possible, size=classes, fill_value=0)[0]
    planes = jnp.moveaxis(logits, -1, 0)

    def compare(best: Best) -> Best:
        i, score, label = best
        this = order[i]
        plane = jax.lax.dynamic_index_in_dim(planes, this, keepdims=False)
        plane = resize.resize_bilinear(resize.resize_bilinear(plane, input_size), output_size)
        return i + 1, jnp.maximum(score, plane), jnp.where(plane > score, this.astype(jnp.uint8), label)

    full = (n, *output_size)
    start = (jnp.zeros((), jnp.int32), jnp.full(full, -jnp.inf, logits.dtype), jnp.zeros(full, jnp.uint8))
    count = possible.sum(dtype=jnp.int32)
    return jax.lax.while_loop(lambda best: best[0] < count, compare, start)[2]


def scores_by_class(logits: jax.Array, input_size: tuple[int, int], output_size: tuple[int, int]) -> jax.Array:
    """`winner_scores` of all classes: with the maximum m so far goes the sum of exp(logit - m), and
    the winner's probability is 1 over the last sum."""
    if input_size[0] == output_size[0] and input_size[1] != output_size[1]:  # As above.
        turned = scores_by_class(jnp.swapaxes(logits, 1, 2), input_size[::-1], output_size[::-1])
        return jnp.swapaxes(turned, 1, 2)
    planes = jnp.moveaxis(logits, -1, 0)

    def add(i: jax.Array, so_far: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        largest, total = so_far
        plane = jax.lax.dynamic_index_in_dim(planes, i, keepdims=False)
        plane = resize.resize_bilinear(resize.resize_bilinear(plane, input_size), output_size)
        new = jnp.maximum(largest, plane)
        return new, total * jnp.exp(largest - new) + jnp.exp(plane - new)

    full = (logits.shape[0], *output_size)
    start = jnp.full(full, -jnp.inf, jnp.float32), jnp.zeros(full, jnp.float32)
    return 1 / jax.lax.fori_loop(0, logits.shape[-1], add, start)[1]


def masks_at_once(logits: jax.Array, input_size: tuple[int, int], output_size: tuple[int, int]) -> jax.Array:
    """`segmentation_masks` of all classes together."""

    def masks(logits: jax.Array) -> jax.Array:
        return jnp.argmax(_full_size(logits, input_size, output_size), -1).astype(jnp.uint8)

    return _of_frames(masks, logits, output_size)


def scores_at_once(logits: jax.Array, input_size: tuple[int, int], output_size: tuple[int, int]) -> jax.Array:
    """`winner_scores` of all classes together."""

    def scores(logits: jax.Array) -> jax.Array:
        largest = jnp.max(_full_size(logits, input_size, output_size), -1, keepdims=True)
        # Resized again: what XLA finds computed twice it would write to memory.
        logits, largest = jax.lax.optimization_barrier((logits, largest))
        sums = jnp.sum(jnp.exp(_full_size(logits, input_size, output_size) - largest), -1)
        return 1 / jnp.maximum(sums, 1.0)  # The second time may round otherwise.

    return _of_frames(scores, logits, output_size)


def _of_frames(
    function: Callable[[jax.Array], jax.Array], logits: jax.Array, output_size: tuple[int, int]
) -> jax.Array:
    """All frames together, or one after the other where they would take too much memory."""
    n, h, w, classes = logits.shape
    enlarged = 4 * n * classes * min(h * output_size[1], w * output_size[0])
    if n == 1 or enlarged <= _TOGETHER:
        return function(logits)
    return jax.lax.map(lambda frame: function(frame[None])[0], logits)


def _full_size(logits: jax.Array, input_size: tuple[int, int], output_size: tuple[int, int]) -> jax.Array:
    """f32[N, H0, W0, K], for a sum over the classes to compute within itself."""
    grown = [last / size for size, last in zip(logits.shape[1:3], output_size)]
    first, second = (1, 2) if grown[0] <= grown[1] else (2, 1)
    once = _twice(logits, first, input_size[first - 1], output_size[first - 1])
    return _twice(jax.lax.optimization_barrier(once), second, input_size[second - 1], output_size[second - 1])


def _twice(x: jax.Array, axis: int, between: int, last: int) -> jax.Array:
    """Resizes an axis to a size between, of which only what is read is computed, and then on."""
    tables = resize.neighbours(x.shape[axis], between)
    if between == last:
        return resize.lerp(x, axis, *tables)
    low, high, share = resize.neighbours(between, last)
    first, second = (resize.lerp(x, axis, *(table[at] for table in tables)) for at in (low, high))
    return resize.between(first, second, axis, share)


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
