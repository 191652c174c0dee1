"""Systems after DFF (Zhu et al., CVPR 2017) and Accel (Jain et al., CVPR 2019): features of key
frames are warped to the frames after them, where Accel has a small network beside.

What is warped is the head's features, in front of the classifier: the authors' heads are two
convolutions of 1x1, PSPNet's a pyramid and a convolution of 3x3. DFF's scale map comes of what
RAFT's updates read of the frame, as RAFT has no output for it. Accel's two networks are PSPNet on
any backbone and on ResNet-18; the first is trained before and stays as it is.

Dimension key: as in ``method``; h w the map of the logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32

from cffm_jax.models import layers
from cffm_jax.models.encoders import names as encoders
from cffm_jax.models.flow.warp import resize_flow, warp
from cffm_jax.models.heads import pspnet
from cffm_jax.models.heads.head import HeadKind, sides
from cffm_jax.models.methods.flow_key_frames import FlowKeyFrames, Frame, Held, Scale
from cffm_jax.models.methods.key_frames import kind_after
from cffm_jax.models.resize import resize_bilinear

UPDATE = "r18"
"""Accel's encoder of the frames between key frames."""


class DeepFeatureFlow(FlowKeyFrames):
    """Key frames' features, warped from there, times a scale map."""

    KINDS: ClassVar[Mapping[str, HeadKind]] = {"dff": kind_after("after DFF", pspnet.KIND)}
    PARTS: ClassVar[Mapping[str, str]] = {**FlowKeyFrames.PARTS, "scale": "scale map"}

    def setup(self) -> None:
        super().setup()
        self.scale = Scale(self.size.head_width)

    def moved(
        self, state: Held, features: Frame, train: bool = False
    ) -> tuple[Held, Float32[Array, "N h w {self.num_classes}"]]:
        """The state stays that of the key frame."""
        size = sides(state.kept)
        warped = warp(state.kept, resize_flow(self.flow_from(features, state.flow), size))
        scaled = warped * self.scale(self.flow_context(features, size)).astype(warped.dtype)
        return state, self.classified(scaled, train)


class Accel(FlowKeyFrames):
    """Key frames' features, warped from frame to frame; their logits beside those of a small
    network, and a 1x1 convolution of both, at first their mean.

    The authors fuse logits of full size: the same, as the convolution and the resize to it are
    linear, and the weights of a resize sum to 1.
    """

    KINDS: ClassVar[Mapping[str, HeadKind]] = {"accel": kind_after("after Accel-18", pspnet.KIND)}
    ADDED: ClassVar[Mapping[str, str]] = {
        "update_encoder": "update network's encoder",
        "update_head": "update network's head",
        "update_classifier": "update network's classifier",
        "fusion": "fusion",
    }
    PARTS: ClassVar[Mapping[str, str]] = {**FlowKeyFrames.PARTS, **ADDED}
    CLASSIFIERS: ClassVar[tuple[str, ...]] = ("classifier", "update network's classifier", "fusion")

    @property
    def least_samples(self) -> int:
        return self.head_form.module.LEAST_SAMPLES

    def setup(self) -> None:
        super().setup()
        size = encoders.size_of(UPDATE)
        self.update_encoder = encoders.make_encoder(
            UPDATE, size.norm_epsilons, 0.0, self.dtype, (), self.remat, self.output_stride
        )
        self.update_head = self.head_form.module(size.head_width, self.dtype)
        self.update_dropout = layers.channel_dropout(self.dropout)
        self.update_classifier = layers.Dense(self.num_classes, self.dtype)
        self.fusion = nn.Dense(self.num_classes, kernel_init=_mean)

    def moved(
        self, state: Held, features: Frame, train: bool = False
    ) -> tuple[Held, Float32[Array, "N h w {self.num_classes}"]]:
        size = sides(state.kept)
        warped = warp(state.kept, resize_flow(self.flow_from(features, state.flow), size))
        update = self.update_head(self.update_encoder(features.frames, train), None, train)
        update = self.update_classifier(self.update_dropout(update, deterministic=not train)).astype(jnp.float32)
        logits = self.fusion(jnp.concatenate([self.classified(warped), resize_bilinear(update, size)], -1))
        return Held(warped, features.flow), logits

    def frozen_macs(self, height: int, width: int) -> int:
        return super().frozen_macs(height, width) + self.image_macs(height, width)


def _mean(key: jax.Array, shape: tuple[int, int], dtype=jnp.float32) -> jax.Array:
    """The kernel of the mean of two."""
    return jnp.tile(jnp.eye(shape[1], dtype=dtype) / 2, (2, 1))
