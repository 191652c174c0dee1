"""A system after DVSN (Xu et al., CVPR 2018): a small network predicts how well the key frame's
masks, warped, would agree with new ones; where they would not, the frame is segmented anew.

A frame is one region: the authors' quarters, each with a key frame of its own, are left out. Their
flow network gives flow, a scale for each class and what the decision reads; here that is RAFT, a
convolution of what its updates read of the frame, and the change of its features along the flow.
The image system, PSPNet, is trained before and stays as it is.

Dimension key: as in ``method``; h w the map of the logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32

from cffm_jax.config import ModelConfig, PrototypeConfig
from cffm_jax.models.criterion import Criterion
from cffm_jax.models.flow.raft import crop_map
from cffm_jax.models.flow.warp import resize_flow, warp
from cffm_jax.models.heads import pspnet
from cffm_jax.models.heads.head import HeadKind, sides
from cffm_jax.models.losses import cross_entropy
from cffm_jax.models.methods.flow_key_frames import FlowKeyFrames, Frame, Held, Scale, half
from cffm_jax.models.methods.key_frames import kind_after, select
from cffm_jax.models.methods.method import Batch, Tree
from cffm_jax.models.normalise import normalise
from cffm_jax.models.pyramid import bin_means

_BINS = (4, 8)
"""Means of the map that the decision reads."""


class Decision(nn.Module):
    """The percentage of pixels on which warped and new masks agree, of maps of 4x8."""

    @nn.compact
    def __call__(self, x: Float32[Array, "N 4 8 C"]) -> Float32[Array, " N"]:
        x = nn.Conv(96, (3, 3), name="conv")(x)
        x = nn.leaky_relu(x, 0.1).reshape(len(x), -1)
        for i, width in enumerate((1024, 1024, 10)):
            x = nn.leaky_relu(nn.Dense(width, name=f"dense{i + 1}")(x), 0.1)
        return nn.Dense(1, name="percentage")(x)[:, 0]


class DynamicNetwork(FlowKeyFrames):
    """Key frames' logits, warped from there, times a scale for each class.

    Attributes:
      least_agreement: the predicted percentage below which a frame is a new key frame.
    """

    least_agreement: float = ModelConfig.least_agreement

    KINDS: ClassVar[Mapping[str, HeadKind]] = {"dvsn": kind_after("after DVSN", pspnet.KIND)}
    ADDED: ClassVar[Mapping[str, str]] = {"scale": "scale of classes", "decision": "decision network"}
    PARTS: ClassVar[Mapping[str, str]] = {**FlowKeyFrames.PARTS, **ADDED}
    CLASSIFIERS: ClassVar[tuple[str, ...]] = ("classifier", "scale of classes")

    @classmethod
    def of(cls, family: str, backbone: str, settings: ModelConfig) -> dict[str, Any]:
        return super().of(family, backbone, settings) | {"least_agreement": settings.least_agreement}

    @property
    def settings_read(self) -> tuple[str, ...]:
        return *super().settings_read, "model.least_agreement"

    @property
    def chooses_key_frames(self) -> bool:
        return True

    def setup(self) -> None:
        super().setup()
        self.scale, self.decision = Scale(self.num_classes), Decision()

    # --- the stages

    def keyed(
        self, features: Frame, train: bool = False
    ) -> tuple[Held, Float32[Array, "N h w {self.num_classes}"]]:  # fmt: skip
        held, logits = super().keyed(features)
        return Held(logits, held.flow), logits

    def predicted(
        self, state: Held, features: Frame
    ) -> tuple[Float32[Array, "N h w {self.num_classes}"], Float32[Array, " N"]]:
        """The key frames' logits, warped and scaled, and the percentage of pixels on which their
        masks are expected to agree with new ones."""
        size, flow = sides(state.kept), self.flow_from(features, state.flow)
        warped = warp(state.kept, resize_flow(flow, size), outside="border")
        logits = warped * self.scale(self.flow_context(features, size))
        halves = half(sides(features.frames))
        at_stride_8 = -(-halves[0] // 8), -(-halves[1] // 8)
        now, before = (crop_map(each, halves, at_stride_8) for each in (features.flow, state.flow))
        on_features = resize_flow(flow, at_stride_8)
        change = jnp.abs(now - warp(before, on_features, outside="border"))
        return logits, self.decision(bin_means(jnp.concatenate([change, on_features], -1), _BINS))

    def moved(
        self, state: Held, features: Frame, train: bool = False
    ) -> tuple[Held, Float32[Array, "N h w {self.num_classes}"]]:
        return state, self.predicted(state, features)[0]

    def advance(
        self,
        state: Held,
        features: Frame,
        age: Int32[Array, " S"],
        settings: PrototypeConfig,
        memory: Sequence[Tree] = (),
    ) -> tuple[Held, Float32[Array, "S h w {self.num_classes}"]]:
        """A key frame is segmented where a stream begins, or masks would agree too little."""
        logits, percentage = self.unbound()("predicted", state, features)
        key = (age == 0) | (percentage < self.least_agreement)
        return select(key, self.keyed_if(jnp.any(key), state, features), (state, logits))

    # --- training

    def loss(
        self, batch: Batch, frame_loss_weight: float, criterion: Criterion = cross_entropy
    ) -> tuple[Float32[Array, ""], dict[str, Float32[Array, ""]]]:
        """The loss of the logits of clips' first frames, warped to the last ones, plus the squared
        error of the predicted agreement, as a share; ``frame_loss_weight`` is not read."""
        clips = normalise(batch["frames"], batch["size"], self.channels)
        (state, _), target = self.keyed(self.encode(clips[:, 0])), self.encode(clips[:, -1])
        logits, percentage = self.predicted(state, target)
        agree = jnp.argmax(logits, -1) == jnp.argmax(self.keyed(target)[1], -1)
        share = jnp.mean(agree.astype(jnp.float32), (1, 2))
        decision = jnp.mean(jnp.square(percentage / 100 - jax.lax.stop_gradient(share)))
        loss, _ = self.weighted_loss(logits, None, batch["labels"], criterion)
        return loss + decision, {"warped_loss": loss, "decision_loss": decision}

    def training_macs(self, height: int, width: int, *, prototypes: int) -> int:
        """With the image system on the target, which warped logits are compared with."""
        return super().training_macs(height, width, prototypes=prototypes) + self.image_macs(height, width)

    def frozen_macs(self, height: int, width: int) -> int:
        return super().frozen_macs(height, width) + self.image_macs(height, width)
