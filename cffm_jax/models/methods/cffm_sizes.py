"""The sizes of CFFM's networks, and what they count. Dimension key: as in ``method``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from cffm_jax.config import ModelConfig
from cffm_jax.models import cfm
from cffm_jax.models.contexts import cffa, windows
from cffm_jax.models.contexts.centred import context_table
from cffm_jax.models.encoders.names import size_of
from cffm_jax.models.methods.cffm_families import FAMILIES
from cffm_jax.models.methods.frame_network import FrameNetwork

LOCAL_BLOCKS = {"b0": 1, "b1": 2, "b2": 2, "b3": 2, "b4": 4, "b5": 4}
"""Mining blocks N by MiT (CFFM section 4.1; B3 and B4, left out in the papers, as neighbours)."""

GLOBAL_BLOCKS = {"b0": 1, "b1": 1, "b2": 2, "b3": 2, "b4": 2, "b5": 2}
"""Global mining blocks N_g by MiT (CFFM++ section 5.1: 1 for the small, 2 for the large ones)."""


class ContextSizes(FrameNetwork):
    """How many mining blocks a network has, and which contexts they read.

    Attributes:
      local_blocks: mining blocks N in sequence.
      global_blocks: global mining blocks N_g in sequence.
      sources: the context table, one row a reference frame, oldest first.
      static: the target stands in for its references (static contexts alone): no past frame is
        read, in training neither.
      own: the context table's row of the target.
      halo: positions around a window that it reads of the target, unpooled.
      global_weight: lambda, the weight of the global logits (CFFM++ section 4.2).
      attention: False leaves the mining out ("CFFA only"), see ``cfm.PositionBlock``.
    """

    local_blocks: int = 0
    global_blocks: int = 0
    sources: tuple[cffa.PooledSource, ...] = cffa.REFERENCES
    static: bool = False
    own: cffa.PooledSource = cffa.TARGET
    halo: int = windows.HALO
    global_weight: float = ModelConfig.global_weight
    attention: bool = True

    OPTIONS: ClassVar[Mapping[str, str]] = {
        **FrameNetwork.OPTIONS,
        "local_blocks": "--model.blocks",
        "global_blocks": "--model.global-blocks",
        "sources": "--model.receptive, --model.pooling, --model.pooling-rule, --model.pooling-form, --model.window",
        "own": "--model.target-receptive, --model.target-pooling",
        "halo": "--model.halo",
        "attention": "--model.mining",
    }

    @classmethod
    def create(cls, family: str, backbone: str, settings: ModelConfig) -> ContextSizes:
        has, like = FAMILIES[family].blocks, size_of(backbone).like
        own, *references = context_table(settings)
        return cls(
            **cls.shared(backbone, settings),
            local_blocks=(settings.blocks or LOCAL_BLOCKS[like]) if "blocks" in has else 0,
            global_blocks=(settings.global_blocks or GLOBAL_BLOCKS[like]) if "global_blocks" in has else 0,
            sources=tuple(references),
            own=own,
            halo=settings.halo,
            global_weight=settings.global_weight,
            static=settings.references == "self",
            attention=settings.mining == "attention",
        )

    @property
    def settings_resolved(self) -> dict[str, Any]:
        blocks = {"blocks": self.local_blocks, "global_blocks": self.global_blocks}
        return super().settings_resolved | blocks

    # --- counts

    def macs(self, height: int, width: int, *, prototypes: int, executed: bool) -> dict[str, int]:
        h, w = height // 8, width // 8
        parts = self.frame_macs(height, width, executed=executed)
        if self.local_blocks:
            parts |= self._local_macs(h, w, executed=executed)
            if not executed:
                parts["frame_classifier"] = 0
        return parts | (self._global_macs(h, w, prototypes) if self.global_blocks else {})

    def _local_macs(self, h: int, w: int, *, executed: bool) -> dict[str, int]:
        block = cfm.mining_macs(self.width, (self.own, *self.sources), self.halo, h, w, executed=executed)
        parts = {part: self.local_blocks * count for part, count in block.items()}
        return parts | {"clip_classifier": h * w * 2 * self.width * self.num_classes}

    def _global_macs(self, h: int, w: int, prototypes: int) -> dict[str, int]:
        block = cfm.global_macs(self.width, h, w, prototypes)
        parts = {part: self.global_blocks * count for part, count in block.items()}
        return parts | {"global_classifier": h * w * self.width * self.num_classes}

    def elements(self, height: int, width: int, *, prototypes: int) -> int:
        if not self.local_blocks and not self.global_blocks:
            return super().elements(height, width, prototypes=prototypes)
        h, w = height // 8, width // 8
        local = self.local_blocks * cfm.mining_elements(self.width, (self.own, *self.sources), h, w)
        globals_ = self.global_blocks * cfm.global_elements(self.width, h, w, prototypes)
        heads = bool(self.local_blocks) + bool(self.global_blocks)
        heads += 0 if self.local_blocks else 4  # CFFM+ adds its own logits to per-frame ones, at stride 4.
        return self.frame_elements(height, width) + local + globals_ + heads * h * w * self.num_classes

    def training_macs(self, height: int, width: int, *, prototypes: int) -> int:
        """Local models encode and classify all frames of a clip; with global contexts the targets
        alone are encoded, and only the global blocks have a backward pass."""
        h, w = height // 8, width // 8
        frame = self.frame_macs(height, width, executed=True)
        if self.global_blocks:
            once = sum(frame.values()) - frame["frame_classifier"]
            return once + 3 * sum(self._global_macs(h, w, prototypes).values())
        trained = sum(frame.values()) * self.clip_frames
        if self.local_blocks:
            trained += sum(self._local_macs(h, w, executed=True).values())
        return 3 * trained
