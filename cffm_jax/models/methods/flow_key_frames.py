"""Key frames whose features are moved along optical flow to the frames after them.

Where the systems' authors have FlowNet here is RAFT, on frames of half the sides: at their own the
correlation of 1024x2048 takes 4.3 GB.

Dimension key: as in ``method``; h w the map of the logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from cffm_jax.models.flow.raft import crop_flow, crop_map, pad_frames
from cffm_jax.models.heads.head import sides
from cffm_jax.models.methods.flow_head import FlowHead
from cffm_jax.models.methods.image_head import ImageHead
from cffm_jax.models.methods.key_frames import KeyFrames
from cffm_jax.models.methods.method import Tree
from cffm_jax.models.normalise import denormalise
from cffm_jax.models.resize import resize_bilinear


class Frame(NamedTuple):
    """Of a frame, normalised: what RAFT correlates, and what its updates read."""

    frames: Float32[Array, "N H W 3"]
    flow: Float[Array, "N _ _ _"]
    flow_context: Float[Array, "N _ _ _"]


class Held(NamedTuple):
    """What is moved along the flow to the frame that it is of, and that frame's part of the
    flow."""

    kept: Float[Array, "S h w _"]
    flow: Float[Array, "S _ _ _"]


class FlowKeyFrames(KeyFrames, FlowHead):
    """Key frames whose features are moved along optical flow, which starts at the present frame and
    has no gradient."""

    PARTS: ClassVar[Mapping[str, str]] = FlowHead.PARTS

    @property
    def settings_read(self) -> tuple[str, ...]:
        return tuple(name for name in super().settings_read if name != "model.warp")  # All are exact.

    def encode(self, frames: Float[Array, "N H W K"], train: bool = False) -> Tree:
        """A ``Frame``."""
        padded = pad_frames(resize_bilinear(denormalise(frames), half(sides(frames))))
        return jax.lax.stop_gradient(Frame(frames, self.flow.features(padded), self.flow.context(padded)))

    def flow_from(self, features: Frame, before: Float[Array, "N _ _ _"]) -> Float32[Array, "N _ _ 2"]:
        """The flow from frames to others, of which ``before`` is RAFT's features; in pixels of the
        halved frames."""
        flow = self.flow.flow(features.flow, features.flow_context, before, self.flow_updates)
        return jax.lax.stop_gradient(crop_flow(flow, half(sides(features.frames))))

    def flow_context(self, features: Frame, size: tuple[int, int]) -> Float[Array, "N {size[0]} {size[1]} _"]:
        """What RAFT's updates read of frames, at the positions of a map of them."""
        return crop_map(features.flow_context, half(sides(features.frames)), size)

    def keyed(self, features: Tree, train: bool = False) -> tuple[Tree, Float32[Array, "N h w {self.num_classes}"]]:
        """Of a ``Frame``; the features in front of the classifier are ``Held``."""
        kept = self.own_features(features.frames, train)
        return Held(kept, features.flow), self.classified(kept, train and not self.ADDED)

    def frozen_macs(self, height: int, width: int) -> int:
        size, flows = half((height, width)), self.references
        return self.flow_macs(*size) + (flows - 1) * self.flow_macs(*size, frames=1)

    def image_macs(self, height: int, width: int) -> int:
        """Of the image system on a frame."""
        return sum(ImageHead.macs(self, height, width, prototypes=0, executed=True).values())


class Scale(nn.Module):
    """Factors of channels at each position, all 1 at first: a convolution of 1x1."""

    channels: int

    @nn.compact
    def __call__(self, x: Float[Array, "N h w _"]) -> Float32[Array, "N h w {self.channels}"]:
        zeros, ones = nn.initializers.zeros, nn.initializers.ones
        return nn.Dense(self.channels, kernel_init=zeros, bias_init=ones, name="conv")(x.astype(jnp.float32))


def half(size: tuple[int, int]) -> tuple[int, int]:
    """The sides of frames that RAFT reads."""
    return -(-size[0] // 2), -(-size[1] // 2)
