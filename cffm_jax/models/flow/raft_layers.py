"""The networks of RAFT: encoders, what an update computes, the weights that enlarge flow.

Sources and settings: see ``raft``. Dimension key: N images, H W their sides, h w = H/8 W/8, C
channels.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from cffm_jax.models import layers
from cffm_jax.models.convolutions import convolution

STRIDE = 8
Norm = Literal["instance", "batch", "none"]


@dataclasses.dataclass(frozen=True)
class RaftSize:
    """Sizes of a RAFT.

    Attributes:
      widths: channels of the encoders' first convolution and their three stages.
      bottleneck: whether a block's 3x3 convolution stands between two of 1x1.
      features: channels that are correlated.
      hidden: channels of the recurrent state.
      context: channels of the context that each update reads.
      context_norm: of the context's encoder.
      radius: of the lookup in the correlation.
      correlation: channels of the motion encoder's convolutions of correlation.
      flow: of its two convolutions of flow.
      motion: of its last one.
      kernels: (height, width) of the recurrent convolutions, one after the other.
      head: channels within the flow head.
      convex: whether the flow is enlarged by learned weights of 3x3 neighbours.
    """

    widths: tuple[int, int, int, int]
    bottleneck: bool
    features: int
    hidden: int
    context: int
    context_norm: Norm
    radius: int
    correlation: tuple[int, ...]
    flow: tuple[int, int]
    motion: int
    kernels: tuple[tuple[int, int], ...]
    head: int
    convex: bool


SIZES = {
    "raft_small": RaftSize(
        widths=(32, 32, 64, 96), bottleneck=True, features=128, hidden=96, context=64, context_norm="none", radius=3,
        correlation=(96,), flow=(64, 32), motion=80, kernels=((3, 3),), head=128, convex=False,
    ),
    "raft_large": RaftSize(
        widths=(64, 64, 96, 128), bottleneck=False, features=256, hidden=128, context=128, context_norm="batch",
        radius=4, correlation=(256, 192), flow=(128, 64), motion=126, kernels=((1, 5), (5, 1)), head=256, convex=True,
    ),
}  # fmt: skip


def conv(features: int, side: int | tuple[int, int], dtype: jnp.dtype, stride: int = 1, name: str | None = None):
    """A convolution of odd sides whose map keeps its size, but for the stride."""
    sides = (side, side) if isinstance(side, int) else side
    return nn.Conv(
        features, sides, (stride, stride), [(s // 2, s // 2) for s in sides], dtype=dtype,
        kernel_init=layers.conv_init, conv_general_dilated=convolution, name=name,
    )  # fmt: skip


class ConvNorm(nn.Module):
    """Convolution and norm; ``instance``: of each channel of an image, without weights."""

    features: int
    side: int
    stride: int
    norm: Norm
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "N _ _ _"]) -> Float[Array, "N _ _ {self.features}"]:
        x = conv(self.features, self.side, self.dtype, self.stride, "conv")(x)
        if self.norm == "batch":
            return layers.BatchNorm(name="norm")(x, False).astype(self.dtype)
        return instance_norm(x) if self.norm == "instance" else x


def instance_norm(x: Float[Array, "N H W C"]) -> Float[Array, "N H W C"]:
    """Normalises each channel of each image, in float32."""
    y = x.astype(jnp.float32)
    y -= jnp.mean(y, (1, 2), keepdims=True)
    return (y * jax.lax.rsqrt(jnp.mean(jnp.square(y), (1, 2), keepdims=True) + 1e-5)).astype(x.dtype)


class Block(nn.Module):
    """Residual block of two 3x3 convolutions, or of one between two of 1x1."""

    features: int
    stride: int
    bottleneck: bool
    norm: Norm
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "N _ _ _"]) -> Float[Array, "N _ _ {self.features}"]:
        inner = self.features // 4
        within = [(inner, 1, 1), (inner, 3, self.stride), (self.features, 1, 1)]
        plain = [(self.features, 3, self.stride), (self.features, 3, 1)]
        y = x
        for i, (features, side, stride) in enumerate(within if self.bottleneck else plain, 1):
            y = nn.relu(ConvNorm(features, side, stride, self.norm, self.dtype, name=f"convnormrelu{i}")(y))
        if self.stride > 1:
            x = ConvNorm(self.features, 1, self.stride, self.norm, self.dtype, name="downsample")(x)
        return nn.relu(x + y)


class Encoder(nn.Module):
    """Images to maps at stride 8: [N, H, W, 3] -> [N, h, w, C]."""

    size: RaftSize
    features: int
    norm: Norm
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "N H W 3"]) -> Float[Array, "N H//8 W//8 {self.features}"]:
        first, *stages = self.size.widths
        x = nn.relu(ConvNorm(first, 7, 2, self.norm, self.dtype, name="convnormrelu")(x))
        for stage, width in enumerate(stages, 1):
            for block, stride in enumerate((1 if stage == 1 else 2, 1)):
                name = f"layer{stage}_{block}"
                x = Block(width, stride, self.size.bottleneck, self.norm, self.dtype, name=name)(x)
        return conv(self.features, 1, self.dtype, name="conv")(x)


class MotionEncoder(nn.Module):
    """Correlation and flow to the features of motion, the flow itself last."""

    size: RaftSize
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, correlation: Float32[Array, "N h w _"], flow: Float32[Array, "N h w 2"]
    ) -> Float[Array, "N h w {self.size.motion+2}"]:
        x, y = correlation, flow
        for i, features in enumerate(self.size.correlation, 1):
            x = nn.relu(conv(features, (1, 3)[i - 1], self.dtype, name=f"convcorr{i}")(x))
        for i, features in enumerate(self.size.flow, 1):
            y = nn.relu(conv(features, (7, 3)[i - 1], self.dtype, name=f"convflow{i}")(y))
        motion = nn.relu(conv(self.size.motion, 3, self.dtype, name="conv")(jnp.concatenate([x, y], -1)))
        return jnp.concatenate([motion, flow.astype(self.dtype)], -1)


class ConvGRU(nn.Module):
    """A step of a convolutional gated recurrent unit."""

    kernel: tuple[int, int]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, state: Float[Array, "N h w C"], x: Float[Array, "N h w _"]) -> Float[Array, "N h w C"]:
        def of(state: jax.Array, name: str) -> jax.Array:
            return conv(state.shape[-1], self.kernel, self.dtype, name=name)(jnp.concatenate([state, x], -1))

        update, reset = (nn.sigmoid(of(state, name)) for name in ("convz", "convr"))
        return (1 - update) * state + update * nn.tanh(of(reset * state, "convq"))


class Update(nn.Module):
    """The state after an update, and what it adds to the flow."""

    size: RaftSize
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        state: Float[Array, "N h w C"],
        context: Float[Array, "N h w _"],
        correlation: Float32[Array, "N h w _"],
        flow: Float32[Array, "N h w 2"],
    ) -> tuple[Float[Array, "N h w C"], Float32[Array, "N h w 2"]]:
        motion = MotionEncoder(self.size, self.dtype, name="motion_encoder")(correlation, flow)
        x = jnp.concatenate([context, motion], -1)
        for i, kernel in enumerate(self.size.kernels, 1):
            state = ConvGRU(kernel, self.dtype, name=f"convgru{i}")(state, x)
        y = nn.relu(conv(self.size.head, 3, self.dtype, name="flow_head_conv1")(state))
        return state, conv(2, 3, self.dtype, name="flow_head_conv2")(y).astype(jnp.float32)


class MaskPredictor(nn.Module):
    """Of each place the weights, before a softmax, of 3x3 neighbours for 8x8 pixels."""

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, state: Float[Array, "N h w _"]) -> Float32[Array, "N h w 9 8 8"]:
        x = nn.relu(conv(self.features, 3, self.dtype, name="convrelu")(state))
        x = 0.25 * conv(9 * STRIDE**2, 1, self.dtype, name="conv")(x).astype(jnp.float32)
        return x.reshape(*x.shape[:3], 9, STRIDE, STRIDE)
