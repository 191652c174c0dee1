"""The network of single frames of CFFM's methods: an encoder, SegFormer's decoder and its
classifier; and what these count.

Dimension key: as in ``method``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32

from cffm_jax.config import ModelConfig
from cffm_jax.models import layers
from cffm_jax.models.decoder import FrameDecoder, decoder_elements, decoder_macs
from cffm_jax.models.distillation import FrameOutputs
from cffm_jax.models.encoders import names as encoders
from cffm_jax.models.encoders.backbone import ENCODER_PARTS
from cffm_jax.models.methods.method import Method, Prototypes, Tree
from cffm_jax.models.resize import resize_bilinear

PER_FRAME = "per-frame (SegFormer)"
"""Name of the logits of a frame on its own."""


class FrameFeatures(NamedTuple):
    """Features of N frames: ``fine`` at stride 4, for the per-frame logits; ``coarse`` at stride
    8."""

    fine: Float[Array, "N 2*h 2*w C"]
    coarse: Float[Array, "N h w C"]


class FrameNetwork(Method):
    """A method whose frames pass SegFormer: encoder, decoder and classifier of frames, each on its
    own.

    Attributes:
      projection: of the encoder's stages, see ``FrameDecoder``.
      width: C, channels of the frame features.
    """

    projection: Literal["linear", "normalised"] = ModelConfig.projection
    width: int = ModelConfig.width

    PARTS: ClassVar[Mapping[str, str]] = {
        **Method.PARTS,
        "decoder": "decoder",
        "frame_classifier": "frame classifier",
    }
    CLASSIFIERS: ClassVar[tuple[str, ...]] = ("frame classifier",)
    OPTIONS: ClassVar[Mapping[str, str]] = {**Method.OPTIONS, "projection": "--model.projection"}

    @classmethod
    def shared(cls, backbone: str, settings: ModelConfig) -> dict[str, Any]:
        return super().shared(backbone, settings) | {"projection": settings.projection, "width": settings.width}

    @property
    def settings_read(self) -> tuple[str, ...]:
        own = "model.projection", "model.width", "model.dropout", "train.frame_loss_weight"
        return *super().settings_read, *own

    def rows(self, prototypes: Prototypes = "video") -> tuple[str, ...]:
        return (PER_FRAME,)

    # --- the stages

    def setup(self) -> None:
        super().setup()
        self.decoder = FrameDecoder(self.width, self.dtype, self.projection)
        self.frame_dropout = layers.channel_dropout(self.dropout)
        self.frame_classifier = layers.Dense(self.num_classes, self.dtype)

    def encode(self, frames: Float[Array, "N H W K"], train: bool = False) -> FrameFeatures:
        fine = self.decoder(self.encode_stages(frames, train), train)
        n, h, w, c = fine.shape
        return FrameFeatures(fine, resize_bilinear(fine, (h // 2, w // 2)))

    def segment(
        self,
        features: FrameFeatures,
        memory: Sequence[Tree],
        referring: Bool[Array, " N"],
        contexts: Mapping[str, Tree],
    ) -> dict[str, Float32[Array, "N _ _ {self.num_classes}"]]:
        return {PER_FRAME: self.classify_frames(features.fine)}

    def prototype_tokens(self, frames: Float[Array, "N H W K"]) -> Float[Array, "N H//8 W//8 C"]:
        return self.encode(frames).coarse

    def classify_frames(
        self, fine: Float[Array, "*map C"], train: bool = False
    ) -> Float32[Array, "*map {self.num_classes}"]:
        """Per-frame logits of stride-4 features: [N, H/4, W/4, C] -> f32[N, H/4, W/4, K]."""
        fine = self.frame_dropout(fine, deterministic=not train)
        return self.frame_classifier(fine).astype(jnp.float32)

    def frame_logits(self, frames: Float[Array, "N H W K"]) -> Float32[Array, "N H//4 W//4 {self.num_classes}"]:
        """SegFormer's logits of normalised frames."""
        return self.classify_frames(self.encode(frames).fine)

    def frame_outputs(self, frames: Float[Array, "N H W K"]) -> FrameOutputs:
        fine = self.encode(frames).fine
        return FrameOutputs(fine, self.classify_frames(fine))

    # --- counts

    def macs(self, height: int, width: int, *, prototypes: int, executed: bool) -> dict[str, int]:
        return self.frame_macs(height, width, executed=executed)

    def elements(self, height: int, width: int, *, prototypes: int) -> int:
        return self.frame_elements(height, width) + height * width // 16 * self.num_classes

    def frame_macs(self, height: int, width: int, *, executed: bool) -> dict[str, int]:
        """Multiply-accumulates of encoding a frame, and of its per-frame logits."""
        size = encoders.size_of(self.backbone, self.depths)
        counts = encoders.backbone_of(self.backbone).macs(size, height, width, len(self.channels))
        return dict.fromkeys(ENCODER_PARTS, 0) | counts | decoder_macs(
            size.channels, height, width, self.width, self.num_classes,
            normalised=self.projection == "normalised", merged=executed,
        )  # fmt: skip

    def frame_elements(self, height: int, width: int) -> int:
        """``elements`` of encoder and decoder, without a classifier's bias."""
        size = encoders.size_of(self.backbone, self.depths)
        return encoders.backbone_of(self.backbone).elements(size, height, width) + decoder_elements(
            size.channels, height, width, self.width, normalised=self.projection == "normalised"
        )
