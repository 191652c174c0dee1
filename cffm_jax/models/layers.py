"""Building blocks that flax lacks or that measure faster than its own.

Dimension key: N images, H W sides of a map, C channels, K kernel side.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from cffm_jax.models.by_platform import by_platform
from cffm_jax.models.convolutions import depthwise, padded_convolution
from cffm_jax.models.operators import operator

# JAX cuts at two standard deviations without correcting for it: what is left has 0.87962566 of the
# one asked for.
truncated_init = nn.initializers.truncated_normal(stddev=0.02 / 0.87962566103423978)


def conv_init(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """Normal with variance 2 / (k * k * out): ``shape`` is [K, K, in, out]."""
    fan_out = shape[0] * shape[1] * shape[-1]
    return jax.random.normal(key, shape, dtype) * np.sqrt(2.0 / fan_out)


def depthwise_init(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """Normal with variance 2 / (k * k): ``shape`` is [K, K, C], one filter a channel."""
    return jax.random.normal(key, shape, dtype) * np.sqrt(2.0 / (shape[0] * shape[1]))


def matmul(x: jax.Array, kernel: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """[..., C] x [C, F] -> [..., F], positions flattened to one axis. With several leading axes,
    the gradient makes XLA on CPUs transpose the cotangent together with all that computes it:
    flattened, a block's backward pass takes a third of the time."""
    flat = x.reshape(-1, x.shape[-1]).astype(dtype) @ align(kernel.astype(dtype), 1, dtype)
    return flat[:, : kernel.shape[1]].reshape(*x.shape[:-1], kernel.shape[1])


class Dense(nn.Module):
    """A dense layer (or 1x1 convolution) of the last axis with the family's initial weights."""

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", truncated_init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return matmul(x, kernel, self.dtype) + bias.astype(self.dtype)


def layer_norm(epsilon: float, dtype: jnp.dtype, name: str | None = None) -> nn.LayerNorm:
    """LayerNorm, float32 statistics, two-pass variance (the fast one fails the golden values)."""
    return nn.LayerNorm(epsilon=epsilon, dtype=dtype, use_fast_variance=False, name=name)


@operator
def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The exact GELU."""
    return jax.nn.gelu(x, approximate=False)


class DepthwiseConv(nn.Module):
    """KxK convolution of each channel with its own filter, K odd, same size, see ``depthwise``."""

    dtype: jnp.dtype = jnp.float32
    side: int = 3
    kernel_init: Callable[..., jax.Array] = depthwise_init
    dilation: int = 1
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        kernel = self.param("kernel", self.kernel_init, (self.side, self.side, channels))
        zeros = nn.initializers.zeros
        bias = self.param("bias", zeros, (channels,)) if self.use_bias else jnp.zeros(channels)
        return depthwise(x.astype(self.dtype), kernel.astype(self.dtype), bias.astype(self.dtype), self.dilation)


def alignment(dtype: jnp.dtype) -> int:
    """The number of tokens in attention should be a multiple of this. GPUs' products of 16-bit
    numbers want 8: otherwise XLA makes a padded copy of every array of attention weights."""
    return 8 if jnp.dtype(dtype).itemsize == 2 else 1


def align(x: Float[Array, ...], axis: int, dtype: jnp.dtype) -> Float[Array, ...]:
    """Zeros after an axis, up to ``alignment``."""
    more = -x.shape[axis] % alignment(dtype)
    return jnp.pad(x, [(0, more if i == axis % x.ndim else 0) for i in range(x.ndim)]) if more else x


def key_mask(count: int, dtype: jnp.dtype) -> Float32[np.ndarray, " _"]:
    """What to add to the logits of so many keys, once aligned: those added weigh nothing."""
    return np.where(np.arange(count - count % -alignment(dtype)) < count, 0.0, -np.inf).astype(np.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def logits(equation: str, queries: Float[Array, ...], keys: Float[Array, ...]) -> Float32[Array, ...]:
    """``jnp.einsum``, summed and returned in float32. Backwards the products have the type of the
    queries and keys: a gradient in float32 would be twice as large, and its products slower."""
    return jnp.einsum(equation, queries, keys, preferred_element_type=jnp.float32)


def _logits_back(equation: str, read: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, ...]:
    queries, keys = read
    _, back = jax.vjp(functools.partial(jnp.einsum, equation), queries, keys)
    return back(gradient.astype(queries.dtype))


logits.defvjp(lambda equation, queries, keys: (logits(equation, queries, keys), (queries, keys)), _logits_back)


@operator
def softmax(logits: Float32[Array, ...], dtype: jnp.dtype) -> Float[Array, ...]:
    """Weights of the last axis, computed in float32. They are all that is kept for the gradient, in
    their own type."""
    return _softmax(logits, dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _softmax(logits: jax.Array, dtype: jnp.dtype) -> jax.Array:
    return jax.nn.softmax(logits, axis=-1).astype(dtype)


def _softmax_back(dtype: jnp.dtype, weights: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    weights, gradient = weights.astype(jnp.float32), gradient.astype(jnp.float32)
    return (weights * (gradient - jnp.sum(weights * gradient, -1, keepdims=True)),)


_softmax.defvjp(lambda logits, dtype: (_softmax(logits, dtype),) * 2, _softmax_back)


@jax.custom_jvp
def relu_of_sum(x: Float[Array, "*shape"], y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """``nn.relu(x + y)`` of finite numbers, bit for bit, for blocks in a row that end so. XLA on
    CPUs computes a ReLU anew for each of its readers, and with it the sums of all blocks before. A
    sum of two arrays it keeps, so there the ReLU comes first. (An infinite y gives NaN there.)"""
    return by_platform(x, y, cpu=lambda x, y: jnp.maximum(x, -y) + y, default=lambda x, y: nn.relu(x + y))


@relu_of_sum.defjvp
def _relu_of_sum_jvp(
    operands: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    result = relu_of_sum(*operands)
    return result, jnp.where(result > 0, sum(tangents), 0)


class PatchConv(nn.Module):
    """Convolution of side and stride R: [N, H, W, C] -> [N, H/R, W/R, F], as one matrix product; or
    -> [N, S, F], the tokens ``align``-ed."""

    side: int
    features: int
    dtype: jnp.dtype = jnp.float32
    kernel_init: Callable[..., jax.Array] = conv_init
    tokens: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        r, (n, h, w, c) = self.side, x.shape
        kernel = self.param("kernel", self.kernel_init, (r, r, c, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        patches = (
            x.reshape(n, h // r, r, w // r, r, c).transpose(0, 1, 3, 2, 4, 5).reshape(n, h // r, w // r, r * r * c)
        )
        if self.tokens:
            patches = align(patches.reshape(n, -1, r * r * c), 1, self.dtype)
        return matmul(patches, kernel.reshape(r * r * c, -1), self.dtype) + bias.astype(self.dtype)


class BatchNorm(nn.Module):
    """BatchNorm over images and positions in float32; running average keeps 0.9, running variance
    is PyTorch's unbiased one. Under ``jax.jit`` means of a sharded batch are the whole batch's."""

    epsilon: float = 1e-5
    keep: float = 0.9

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        channels = x.shape[-1]
        x = x.astype(jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        if not train:
            return (x - mean.value) * (jax.lax.rsqrt(var.value + self.epsilon) * scale) + bias
        batch_mean = jnp.mean(x, axis=(0, 1, 2))
        batch_var = jnp.mean(jnp.square(x - batch_mean), axis=(0, 1, 2))
        if not self.is_initializing():
            count = x.size // channels
            mean.value = self.keep * mean.value + (1 - self.keep) * batch_mean
            var.value = self.keep * var.value + (1 - self.keep) * batch_var * (count / max(count - 1, 1))
        return (x - batch_mean) * (jax.lax.rsqrt(batch_var + self.epsilon) * scale) + bias


class ConvNorm(nn.Module):
    """Convolution, BatchNorm and, unless it is None, an activation: [N, H, W, C] -> [N, ceil(H /
    stride), ceil(W / stride), width].

    Attributes:
      width: channels of the result.
      side: of the kernel, odd; the map is padded by half of it.
      stride, dilation: of the kernel.
      use_bias: whether the convolution has a bias of its own.
    """

    width: int
    side: int = 1
    dtype: jnp.dtype = jnp.float32
    stride: int = 1
    dilation: int = 1
    use_bias: bool = False
    activation: Callable[[jax.Array], jax.Array] | None = nn.relu
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"], train: bool = False) -> Float[Array, "N _ _ {self.width}"]:
        kernel = self.param("kernel", conv_init, (self.side, self.side, x.shape[-1], self.width))
        if self.side == 1:
            y = matmul(x[:, :: self.stride, :: self.stride], kernel[0, 0], self.dtype)
        else:
            y = padded_convolution(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, self.dilation)
        if self.use_bias:
            y += self.param("bias", nn.initializers.zeros, (self.width,)).astype(self.dtype)
        y = BatchNorm(self.epsilon, name="norm")(y, train)
        return (self.activation(y) if self.activation else y).astype(self.dtype)


class DepthwiseConvNorm(nn.Module):
    """`ConvNorm` of each channel with its own filter of 3x3."""

    dtype: jnp.dtype = jnp.float32
    stride: int = 1
    dilation: int = 1
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"], train: bool = False) -> Float[Array, "N _ _ C"]:
        y = DepthwiseConv(self.dtype, dilation=self.dilation, use_bias=False, name="conv")(x)
        y = BatchNorm(self.epsilon, name="norm")(y[:, :: self.stride, :: self.stride], train)
        return self.activation(y).astype(self.dtype)


class DropPath(nn.Module):
    """Skips a branch for whole images with probability ``rate``, else scales by 1 / (1 - rate)."""

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return nn.Dropout(self.rate, broadcast_dims=tuple(range(1, x.ndim)))(x, deterministic=not train)


Remat = Literal["none", "products", "blocks"]
_KEPT = {"products": jax.checkpoint_policies.dots_with_no_batch_dims_saveable, "blocks": None}


def rematerialised(block: type[nn.Module], remat: Remat, *static: int, methods: Sequence[str] | None = None) -> type:
    """A block's class whose backward pass computes anew what is not kept: "none" keeps all,
    "products" the results of its dense layers, "blocks" only what goes into it. Names of parameters
    stay. ``static``: positions of the arguments, not counting the module, that are no arrays."""
    if remat == "none":
        return block
    positions = tuple(1 + position for position in static)
    return nn.remat(block, policy=_KEPT[remat], static_argnums=positions, methods=methods)


def element_dropout(rate: float) -> nn.Dropout:
    """Dropout of single numbers."""
    return nn.Dropout(rate)


def channel_dropout(rate: float) -> nn.Dropout:
    """Dropout of whole channels of an NHWC map."""
    return nn.Dropout(rate, broadcast_dims=(1, 2))
