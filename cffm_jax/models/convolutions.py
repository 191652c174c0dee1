"""Convolutions that measure faster than XLA's on CPUs, and in the order that GPUs have them.

Dimension key: N images, H W sides of a map, C channels, K kernel side, F channels of the result.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cffm_jax.models.by_platform import by_platform
from cffm_jax.models.operators import operator

WIDE, MANY = 8, 2048
"""The dilation, and the number of channels, from which ``padded_convolution`` is a sum of products
on CPUs: of XLA's time for maps of 60x107 it takes two thirds at a dilation of 12, a quarter at 36,
four fifths for 2048 channels undilated; at a dilation of 4, or for 1024 channels, it takes more."""


def convolution(
    x: Float[Array, "N _ _ C"], kernel: Float[Array, "K K C F"], strides: Sequence[int], padding: Any, **settings: Any
) -> Float[Array, "N _ _ F"]:
    """``jax.lax.conv_general_dilated`` for ``nn.Conv``. On GPUs the filters come with their outputs
    first, as cuDNN has them: turned here, that is work on weights alone."""
    settings |= {"window_strides": strides, "padding": padding}

    def of(order: str) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array]:
        def convolved(x: jax.Array, kernel: jax.Array, turned: jax.Array) -> jax.Array:
            chosen: dict[str, Any] = {**settings, "dimension_numbers": ("NHWC", order, "NHWC")}
            return jax.lax.conv_general_dilated(x, kernel if order == "HWIO" else turned, **chosen)

        return convolved

    return by_platform(x, kernel, kernel.transpose(3, 0, 1, 2), cpu=of("HWIO"), default=of("OHWI"))


def padded_convolution(
    x: Float[Array, "N H W C"], kernel: Float[Array, "K K C F"], stride: int = 1, dilation: int = 1
) -> Float[Array, "N _ _ F"]:
    """A convolution of a map padded by half of the kernel, K odd, to [N, ceil(H / stride), ceil(W /
    stride), F]. On CPUs, from ``WIDE`` or ``MANY`` on, it is the sum of one product for each
    element of the filter, of those positions alone where that lies within the map."""
    around = kernel.shape[0] // 2 * dilation

    def by_xla(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return convolution(x, kernel, (stride,) * 2, ((around, around),) * 2, rhs_dilation=(dilation,) * 2)

    def by_products(x: jax.Array, kernel: jax.Array) -> jax.Array:
        n, h, w, c = x.shape
        total = jnp.zeros((n, h, w, kernel.shape[3]), jnp.float32)
        for element in np.ndindex(kernel.shape[:2]):
            down, right = (index * dilation - around for index in element)
            if abs(down) >= h or abs(right) >= w:
                continue
            read = x[:, max(down, 0) : h + min(down, 0), max(right, 0) : w + min(right, 0)]
            product = jnp.dot(read.reshape(-1, c), kernel[element], preferred_element_type=jnp.float32)
            outside = [(0, 0), *((max(-shift, 0), max(shift, 0)) for shift in (down, right)), (0, 0)]
            total += jnp.pad(product.reshape(*read.shape[:3], -1), outside)
        return total.astype(x.dtype)

    if stride > 1 or (dilation < WIDE and x.shape[3] < MANY):
        return by_xla(x, kernel)
    return by_platform(x, kernel, cpu=by_products, default=by_xla)


@operator
def depthwise(x: jax.Array, kernel: jax.Array, bias: jax.Array, dilation: int = 1) -> jax.Array:
    """[N, H, W, C] with filters [K, K, C] and a bias [C], by K * K shifted multiply-adds: on CPUs
    an order of magnitude faster than XLA's grouped convolution (for K = 3 and 7), on GPUs one fused
    kernel. So is the pass back to ``x``, which is the same with turned filters. It has no
    derivative in forward mode."""
    return _depthwise(x, kernel, bias, dilation)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _depthwise(x: jax.Array, kernel: jax.Array, bias: jax.Array, dilation: int) -> jax.Array:
    _, h, w, _ = x.shape
    padded, taps = _shifts(x, kernel, dilation)
    return bias + sum(padded[:, i : i + h, j : j + w] * kernel[at] for at, i, j in taps)


def _shifts(x: jax.Array, kernel: jax.Array, dilation: int) -> tuple[jax.Array, list[tuple[tuple[int, int], int, int]]]:
    """``x`` with zeros around it; the places of a filter's elements, and their rows and columns in
    it."""
    side = kernel.shape[0]
    around = (side // 2 * dilation,) * 2
    taps = [((i, j), i * dilation, j * dilation) for i in range(side) for j in range(side)]
    return jnp.pad(x, ((0, 0), around, around, (0, 0))), taps


def _depthwise_back(
    dilation: int, saved: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, kernel = saved
    padded, taps = _shifts(x, kernel, dilation)
    n, h, w, c = x.shape

    def sums() -> tuple[jax.Array, ...]:
        products = (padded[:, i : i + h, j : j + w] * cotangent for _, i, j in taps)
        return tuple(jnp.sum(each, (0, 1, 2), jnp.float32) for each in (cotangent, *products))

    # XLA on CPUs sums over all but the last axis one channel at a time: a row after the other takes
    # an eighth of the time.
    def sums_by_rows() -> tuple[jax.Array, ...]:
        def add(row: jax.Array, totals: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            above = jax.lax.dynamic_slice_in_dim(padded, row, 1 + taps[-1][1], 1).astype(jnp.float32)
            at = jax.lax.dynamic_slice_in_dim(cotangent, row, 1, 1)[:, 0].astype(jnp.float32)
            products = (above[:, i, j : j + w] * at for _, i, j in taps)
            return tuple(total + each for total, each in zip(totals, (at, *products), strict=True))

        zeros = (jnp.zeros((n, w, c), jnp.float32),) * (1 + len(taps))
        return tuple(jnp.sum(each, (0, 1)) for each in jax.lax.fori_loop(0, h, add, zeros))

    bias, *filters = by_platform(cpu=sums_by_rows, default=sums)
    turned = _depthwise(cotangent, kernel[::-1, ::-1], jnp.zeros_like(bias, x.dtype), dilation)
    return turned, jnp.stack(filters).reshape(kernel.shape).astype(kernel.dtype), bias.astype(kernel.dtype)


_depthwise.defvjp(
    lambda x, kernel, bias, dilation: (_depthwise(x, kernel, bias, dilation), (x, kernel)), _depthwise_back
)
