"""A system after GRFP (Nilsson and Sminchisescu, CVPR 2018): the logits of frames on their own go
through a recurrent gate, whose state is warped along optical flow.

The image system, PSPNet, is trained before and stays as it is. The gate works at the logits'
stride; r, the trust in the warp, is computed at the frames' own size and resized.

Dimension key: as in ``method``; h w the map of the logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from cffm_jax.models.convolutions import convolution
from cffm_jax.models.flow.warp import resize_flow, warp
from cffm_jax.models.heads import pspnet
from cffm_jax.models.heads.head import HeadKind, sides
from cffm_jax.models.methods.flow_key_frames import FlowKeyFrames, Frame
from cffm_jax.models.methods.key_frames import kind_after
from cffm_jax.models.normalise import denormalise
from cffm_jax.models.resize import resize_bilinear

_SIDE = 7
"""Of all kernels."""


class Static(NamedTuple):
    """A frame, and its logits on its own."""

    seen: Frame
    logits: Float32[Array, "N h w K"]


class State(NamedTuple):
    """The last frame's logits, itself, and RAFT's features of it."""

    logits: Float32[Array, "S h w K"]
    frames: Float32[Array, "S H W 3"]
    flow: Float[Array, "S _ _ _"]


class Gate(nn.Module):
    """The logits h of frames, of their own logits x and the h' of the frames before:

        p = softmax - 1/K,  r = 1 - tanh|conv(I - warp(I')) + b|,  H = r warp(p(h'))
        c = conv(p(x)) + conv(H),  z = sigmoid(conv(p(x)) + conv(H) + b_k)
        h = lambda (1 - z) H + z c

    r and the convolutions of z have one channel, b_k is one a class. At first lambda is 2, the
    convolutions of c are 6 times the identity, biases 0; the other kernels are small (our choice).
    """

    @nn.compact
    def __call__(
        self,
        x: Float32[Array, "N h w K"],
        before: Float32[Array, "N h w K"],
        frames: Float32[Array, "N H W 3"],
        frames_before: Float32[Array, "N H W 3"],
        flow: Float32[Array, "N _ _ 2"],
    ) -> Float32[Array, "N h w K"]:
        """Frames are in 0..255; flow is in its own pixels."""
        classes = x.shape[-1]

        def conv(name: str, channels: int, x: jax.Array, init: nn.initializers.Initializer = _small) -> jax.Array:
            kernel = self.param(name, init, (_SIDE, _SIDE, x.shape[-1], channels))
            return convolution(x, kernel, (1, 1), (((_SIDE // 2,) * 2),) * 2)

        change = frames - warp(frames_before, resize_flow(flow, sides(frames)))
        bias = self.param("trust_bias", nn.initializers.zeros, (1,))
        trust = 1 - jnp.tanh(jnp.abs(conv("trust", 1, change) + bias))
        moved = resize_bilinear(trust, sides(x)) * warp(_centred(before), resize_flow(flow, sides(x)))
        present = _centred(x)
        candidate = conv("candidate_present", classes, present, _six) + conv("candidate_before", classes, moved, _six)
        bias = self.param("gate_bias", nn.initializers.zeros, (classes,))
        gate = nn.sigmoid(conv("gate_present", 1, present) + conv("gate_before", 1, moved) + bias)
        strength = self.param("strength", nn.initializers.constant(2.0), ())
        return strength * (1 - gate) * moved + gate * candidate


class GatedRecurrence(FlowKeyFrames):
    """Every ``key_interval`` frames the recurrence begins with the frame's own logits."""

    KINDS: ClassVar[Mapping[str, HeadKind]] = {"grfp": kind_after("after GRFP", pspnet.KIND)}
    ADDED: ClassVar[Mapping[str, str]] = {"gate": "gate"}
    PARTS: ClassVar[Mapping[str, str]] = {**FlowKeyFrames.PARTS, **ADDED}
    CLASSIFIERS: ClassVar[tuple[str, ...]] = ("classifier", "gate")

    def setup(self) -> None:
        super().setup()
        self.gate = Gate()

    def encode(self, frames: Float[Array, "N H W K"], train: bool = False) -> Static:
        return Static(super().encode(frames), self.classified(self.own_features(frames)))

    def keyed(
        self, features: Static, train: bool = False
    ) -> tuple[State, Float32[Array, "N h w {self.num_classes}"]]:  # fmt: skip
        return State(features.logits, features.seen.frames, features.seen.flow), features.logits

    def moved(
        self, state: State, features: Static, train: bool = False
    ) -> tuple[State, Float32[Array, "N h w {self.num_classes}"]]:
        frames, before = denormalise(features.seen.frames), denormalise(state.frames)
        logits = self.gate(features.logits, state.logits, frames, before, self.flow_from(features.seen, state.flow))
        return State(logits, features.seen.frames, features.seen.flow), logits

    def frozen_macs(self, height: int, width: int) -> int:
        return super().frozen_macs(height, width) + self.clip_frames * self.image_macs(height, width)


def _centred(logits: Float32[Array, "N h w K"]) -> Float32[Array, "N h w K"]:
    """Probabilities whose mean over the classes is 0."""
    return nn.softmax(logits) - 1 / logits.shape[-1]


_small = nn.initializers.normal(1e-3)


def _six(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """The kernel of six times the identity."""
    return jnp.zeros(shape, dtype).at[shape[0] // 2, shape[1] // 2].set(6 * jnp.eye(shape[-1], dtype=dtype))
