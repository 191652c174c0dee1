"""A system after clockwork convnets (CC; Shelhamer et al., ECCV Workshops 2016): the lower layers
and their score on every frame; the upper ones and theirs, which is added, are updated now and then.

Lower are the first three stages, with the auxiliary head's score, upper the last one, with FCN's
(the authors: VGG-16, with scores of pool3 and pool4 below). In training the upper score is of an
earlier frame.

Dimension key: as in ``method``; h w the map of the logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32

from cffm_jax.config import ModelConfig
from cffm_jax.models.heads import fcn
from cffm_jax.models.heads.head import HeadKind, sides
from cffm_jax.models.methods.key_frames import KeyFrames, kind_after
from cffm_jax.models.resize import resize_bilinear


class Lower(NamedTuple):
    """What the last stage reads of a frame, and the lower score."""

    below: Float[Array, "N _ _ _"]
    score: Float32[Array, "N h w K"]


class Upper(NamedTuple):
    """The upper score, and the classes of the lower one, when it was updated."""

    score: Float32[Array, "S h w K"]
    classes: Int32[Array, "S h w"]


class Clockwork(KeyFrames):
    """The upper score is updated every ``key_interval`` frames, or where the lower one changes.

    Attributes:
      update_share: share of the pixels whose lower score has another class than at the last update
        from which on it is updated; 0: it is every ``key_interval`` frames.
    """

    update_share: float = ModelConfig.update_share

    KINDS: ClassVar[Mapping[str, HeadKind]] = {"cc": kind_after("after CC", fcn.KIND, auxiliary=True)}
    INTERVAL: ClassVar[int] = 2

    @classmethod
    def of(cls, family: str, backbone: str, settings: ModelConfig) -> dict[str, Any]:
        return super().of(family, backbone, settings) | {"update_share": settings.update_share}

    @property
    def settings_read(self) -> tuple[str, ...]:
        others = (name for name in super().settings_read if name != "model.auxiliary_weight")
        return *others, "model.update_share"

    @property
    def chooses_key_frames(self) -> bool:
        return bool(self.update_share)

    @property
    def stride(self) -> int:
        return self.size.strides[2]

    def encode(self, frames: Float[Array, "N H W K"], train: bool = False) -> Lower:
        self.require_sides(frames)
        below, maps = self.encoder.stages(frames.astype(self.dtype), train, last=2)
        return Lower(below, self.regions(maps, train))

    def keyed(
        self, features: Lower, train: bool = False
    ) -> tuple[Upper, Float32[Array, "N h w {self.num_classes}"]]:  # fmt: skip
        _, maps = self.encoder.stages(features.below, train, first=3)
        score = self.classified(self.head(maps, None, train), train)
        state = Upper(resize_bilinear(score, sides(features.score)), _classes(features.score))
        return self.moved(state, features)

    def moved(
        self, state: Upper, features: Lower, train: bool = False
    ) -> tuple[Upper, Float32[Array, "N h w {self.num_classes}"]]:
        return state, state.score + features.score

    def is_key(self, state: Upper, features: Lower, age: Int32[Array, " S"]) -> Bool[Array, " S"]:
        if not self.update_share:
            return super().is_key(state, features, age)
        changed = jnp.mean((_classes(features.score) != state.classes).astype(jnp.float32), (1, 2))
        return (age == 0) | (changed >= self.update_share)


def _classes(score: Float32[Array, "N h w K"]) -> Int32[Array, "N h w"]:
    return jnp.argmax(score, -1).astype(jnp.int32)
