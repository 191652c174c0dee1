"""From logits to masks without the full-size logits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from cffm_jax.resize import resize_bilinear

Pair = tuple[jax.Array, jax.Array]


def segmentation_masks(logits: jax.Array, input_size: tuple[int, int], output_size: tuple[int, int]) -> jax.Array:
    """The class of every pixel: logits are resized to the input's size, then to the original one, then compared.

    One class at a time with a running maximum: the same labels as an arg-max over full-size logits (the first of equals
    wins) at 1/K of the memory.

    Args:
      logits: f32[N, h, w, K].
      input_size: (H, W) of the frames that the model saw.
      output_size: (H0, W0) of the original frames.

    Returns:
      u8[N, H0, W0].
    """
    if input_size[0] == output_size[0] and input_size[1] != output_size[1]:
        # Only the width is gathered, along the last axis number by number; along an axis before it, row by row. On CPUs
        # a third of the time.
        turned = segmentation_masks(jnp.swapaxes(logits, 1, 2), input_size[::-1], output_size[::-1])
        return jnp.swapaxes(turned, 1, 2)
    n = logits.shape[0]

    def full_size(plane: jax.Array) -> jax.Array:
        return resize_bilinear(resize_bilinear(plane, input_size), output_size)

    def compare(best: Pair, item: Pair) -> tuple[Pair, None]:
        score, label = best
        plane, this = item
        plane = full_size(plane)
        return (jnp.maximum(score, plane), jnp.where(plane > score, this, label)), None

    start = (jnp.full((n, *output_size), -jnp.inf, logits.dtype), jnp.zeros((n, *output_size), jnp.uint8))
    planes = (jnp.moveaxis(logits, -1, 0), np.arange(logits.shape[-1], dtype=np.uint8))
    return jax.lax.scan(compare, start, planes)[0][1]
