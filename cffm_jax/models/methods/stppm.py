"""Spatial-temporal pyramid pooling averaged over a clip's frames, after TCB's ST-PPM (CVPR 2021).

TCB pools the last map of a dilated ResNet-101; here it is the frame features of this package's
backbones at stride 8, so its figures are not those of the papers' row.

Dimension key: as in ``method``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32

from cffm_jax.config import ModelConfig
from cffm_jax.models import layers
from cffm_jax.models.methods.frame_network import PER_FRAME, FrameFeatures, FrameNetwork
from cffm_jax.models.methods.method import Prototypes
from cffm_jax.models.pyramid import SIDES, Pyramid, pyramid
from cffm_jax.models.resize import resize_bilinear

FAMILY, ROW = "stppm", "ST-PPM"


class ClipOutputs(NamedTuple):
    """Logits for ``clip_loss``: those of the targets, and of every frame alone."""

    logits: Float32[Array, "B 2*h 2*w K"]
    frame_logits: Float32[Array, "B T 2*h 2*w K"]


class TemporalPyramid(FrameNetwork):
    """A target's map beside the pyramid of its clip, in front of a classifier.

    Attributes:
      references: R past frames whose pyramids are averaged with the target's.
    """

    references: int = 3

    PARTS: ClassVar[Mapping[str, str]] = {
        **FrameNetwork.PARTS,
        "project": "pyramid",
        "fuse": "fusion",
        "clip_classifier": "clip classifier",
    }
    CLASSIFIERS: ClassVar[tuple[str, ...]] = ("frame classifier", "clip classifier")

    @classmethod
    def create(cls, family: str, backbone: str, settings: ModelConfig) -> TemporalPyramid:
        return cls(**cls.shared(backbone, settings), references=len(settings.receptive))

    @property
    def family(self) -> str:
        return FAMILY

    @property
    def settings_read(self) -> tuple[str, ...]:
        return (*super().settings_read, "model.receptive")  # The number of references.

    @property
    def reference_names(self) -> tuple[str, ...]:
        return tuple(f"reference{i}" for i in range(self.references))

    def rows(self, prototypes: Prototypes = "video") -> tuple[str, ...]:
        return ROW, PER_FRAME

    def setup(self) -> None:
        super().setup()
        self.project = [layers.ConvNorm(self.width, 1, self.dtype) for _ in SIDES]
        self.fuse = layers.ConvNorm(self.width, 3, self.dtype)
        self.clip_dropout = layers.channel_dropout(self.dropout)
        self.clip_classifier = layers.Dense(self.num_classes, self.dtype)

    def remember(self, features: FrameFeatures) -> tuple[Pyramid, ...]:
        """A frame's pyramid, which all references read alike."""
        return (pyramid(features.coarse),)

    def segment(
        self,
        features: FrameFeatures,
        memory: Sequence[Pyramid],
        referring: Bool[Array, " N"],
        contexts: Mapping[str, Array],
    ) -> dict[str, Float32[Array, "N _ _ {self.num_classes}"]]:
        """Segments as ``Method`` says; a first frame without references is its own clip."""
        pooled = jax.tree.map(lambda *each: sum(each) / len(each), pyramid(features.coarse), *memory)
        return {ROW: self.classify(features.coarse, pooled), PER_FRAME: self.classify_frames(features.fine)}

    def __call__(
        self, clips: Float[Array, "B T H W K"], train: bool = False
    ) -> Float32[Array, "B H//4 W//4 {self.num_classes}"]:
        """Logits of the last frame of each clip."""
        return self.clip_outputs(clips, train).logits

    def clip_outputs(self, clips: Float[Array, "B T H W K"], train: bool = False) -> ClipOutputs:
        """The logits of clips, and of their frames alone, which TCB has an auxiliary loss of."""
        b, t, h, w, _ = clips.shape
        features = self.encode(clips.reshape(b * t, *clips.shape[2:]), train)
        frame_logits = self.classify_frames(features.fine, train).reshape(b, t, h // 4, w // 4, -1)
        target = features.coarse.reshape(b, t, *features.coarse.shape[1:])[:, -1]
        pooled = jax.tree.map(lambda x: x.reshape(b, t, *x.shape[1:]).mean(1), pyramid(features.coarse))
        return ClipOutputs(self.classify(target, pooled, train), frame_logits)

    def classify(
        self, target: Float[Array, "N h w C"], pooled: Pyramid, train: bool = False
    ) -> Float32[Array, "N 2*h 2*w {self.num_classes}"]:
        """Logits of a map beside its clip's pyramid."""
        _, h, w, _ = target.shape
        levels = [
            resize_bilinear(project(level.astype(self.dtype), train), (h, w))
            for project, level in zip(self.project, pooled, strict=True)
        ]
        x = self.fuse(jnp.concatenate([target, *levels], -1), train)
        logits = self.clip_classifier(self.clip_dropout(x, deterministic=not train)).astype(jnp.float32)
        return resize_bilinear(logits, (2 * h, 2 * w))

    def macs(self, height: int, width: int, *, prototypes: int, executed: bool) -> dict[str, int]:
        positions, c = height * width // 64, self.width
        return self.frame_macs(height, width, executed=executed) | {
            "pyramid": sum(side**2 for side in SIDES) * c * c,
            "pyramid_fuse": positions * 9 * (1 + len(SIDES)) * c * c,
            "clip_classifier": positions * c * self.num_classes,
        }

    def elements(self, height: int, width: int, *, prototypes: int) -> int:
        positions = height * width // 64
        normed = 3 * (sum(side**2 for side in SIDES) + positions) * self.width
        return self.frame_elements(height, width) + normed + positions * self.num_classes

    def training_macs(self, height: int, width: int, *, prototypes: int) -> int:
        frame = sum(self.frame_macs(height, width, executed=True).values())
        target = sum(self.macs(height, width, prototypes=prototypes, executed=True).values())
        return 3 * (target + self.references * frame)
