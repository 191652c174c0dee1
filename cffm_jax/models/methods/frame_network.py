"""The network of single frames that all methods share: an encoder, SegFormer's decoder and its
classifier; and what these count.

Dimension key: as in ``method``.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from cffm_jax.channels import COLOURS, Channels
from cffm_jax.config import ModelConfig
from cffm_jax.models import layers
from cffm_jax.models.decoder import FrameDecoder, decoder_elements, decoder_macs
from cffm_jax.models.encoders import names as encoders
from cffm_jax.models.encoders.backbone import ENCODER_PARTS
from cffm_jax.models.resize import resize_bilinear

INPUT_MULTIPLE = 32


class FrameFeatures(NamedTuple):
    """Features of N frames: ``fine`` at stride 4, for the per-frame logits; ``coarse`` at stride
    8."""

    fine: Float[Array, "N 2*h 2*w C"]
    coarse: Float[Array, "N h w C"]


class FrameNetwork(nn.Module):
    """Encoder, decoder and classifier of frames, each on its own.

    Attributes:
      backbone: one of ``encoders.names()``.
      num_classes: K.
      norm_epsilons: of the encoder's norms: those of embeddings and reductions, those of blocks and
        stages.
      projection: of the encoder's stages, see ``FrameDecoder``.
      width: C, channels of the frame features.
      dropout: share of channels dropped before each classifier.
      drop_path: the encoder's largest drop path rate.
      dtype: compute type; parameters, norms, softmax and logits are float32.
      depths: blocks of the encoder's stages; () as the backbone has.
      channels: of the frames.
      remat: what the backward pass computes anew, see ``layers.rematerialised``.
    """

    backbone: str
    num_classes: int
    norm_epsilons: tuple[float, float]
    projection: Literal["linear", "normalised"] = ModelConfig.projection
    width: int = ModelConfig.width
    dropout: float = ModelConfig.dropout
    drop_path: float = ModelConfig.drop_path
    dtype: jnp.dtype = jnp.float32
    depths: tuple[int, ...] = ()
    remat: layers.Remat = "none"
    channels: Channels = COLOURS

    @classmethod
    def shared(cls, backbone: str, settings: ModelConfig) -> dict[str, Any]:
        """The attributes above, for ``create``."""
        return {
            "backbone": backbone,
            "num_classes": settings.num_classes,
            "norm_epsilons": tuple(settings.norm_epsilons) or encoders.size_of(backbone).norm_epsilons,
            "depths": settings.depths,
            "projection": settings.projection,
            "width": settings.width,
            "dropout": settings.dropout,
            "drop_path": settings.drop_path,
            "dtype": jnp.dtype(settings.dtype),
        }

    # --- the stages

    def setup(self) -> None:
        self.encoder = encoders.make_encoder(
            self.backbone, self.norm_epsilons, self.drop_path, self.dtype, self.depths, self.remat
        )
        self.decoder = FrameDecoder(self.width, self.dtype, self.projection)
        self.frame_dropout = layers.channel_dropout(self.dropout)
        self.frame_classifier = layers.Dense(self.num_classes, self.dtype)

    def encode_stages(
        self, frames: Float[Array, "N H W K"], train: bool = False
    ) -> tuple[Float[Array, "N _ _ _"], ...]:
        """The encoder's four maps: [N, H/s, W/s, C_s] for s = 4, 8, 16, 32."""
        _, h, w, _ = frames.shape
        if h % INPUT_MULTIPLE or w % INPUT_MULTIPLE:
            raise ValueError(f"frames are {h}x{w}: both sides must be multiples of {INPUT_MULTIPLE}")
        return self.encoder(frames, train)

    def encode(self, frames: Float[Array, "N H W K"], train: bool = False) -> FrameFeatures:
        """Features of normalised frames; each frame on its own, so that none is encoded twice."""
        fine = self.decoder(self.encode_stages(frames, train), train)
        n, h, w, c = fine.shape
        return FrameFeatures(fine, resize_bilinear(fine, (h // 2, w // 2)))

    def classify_frames(
        self, fine: Float[Array, "*map C"], train: bool = False
    ) -> Float32[Array, "*map {self.num_classes}"]:
        """Per-frame logits of stride-4 features: [N, H/4, W/4, C] -> f32[N, H/4, W/4, K]."""
        fine = self.frame_dropout(fine, deterministic=not train)
        return self.frame_classifier(fine).astype(jnp.float32)

    def frame_logits(self, frames: Float[Array, "N H W K"]) -> Float32[Array, "N H//4 W//4 {self.num_classes}"]:
        """SegFormer's logits of normalised frames."""
        return self.classify_frames(self.encode(frames).fine)

    # --- counts

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
