"""What a state dict is: its origin, and which model of this package its names and shapes make."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from cffm_jax.errors import InputError
from cffm_jax.models.cffm import FAMILIES, GLOBAL_BLOCKS, LOCAL_BLOCKS
from cffm_jax.models.encoders import names as encoders
from cffm_jax.weights.files.stored_array import StoredArray
from cffm_jax.weights.naming.origins import ORIGINS, Combine, Origin

ENCODER = "encoder"
_WRAPPERS = ("module.", "model.")
"""Prefixes of all keys that wrappers for several devices leave behind."""


@dataclasses.dataclass(frozen=True)
class Foreign:
    """A state dict of a known origin.

    Attributes:
      origin: its naming.
      arrays: by the keys of the origin with their prefix.
      names: those keys -> the file's own, which errors name.
      added: prefix that the file does without.
    """

    origin: Origin
    arrays: Mapping[str, StoredArray]
    names: Mapping[str, str]
    added: str = ""

    def name_of(self, key: str) -> str:
        """The file's own name of a key, also of one that it lacks."""
        return self.names.get(key) or key.removeprefix(self.added)

    def is_encoder_key(self, key: str) -> bool:
        return key.startswith(self.origin.prefix)

    def find(self, released: str) -> tuple[tuple[str, ...], Combine] | None:
        """As ``Origin.sources``, if the file has at least one of the keys."""
        found = self.origin.sources(released)
        return found if found and any(key in self.arrays for key in found[0]) else None

    def shape(self, released: str) -> tuple[int, ...] | None:
        """Shape of the released array; None if it is not there, whole and of a shape that can be combined."""
        found = self.find(released)
        if not found or any(key not in self.arrays for key in found[0]):
            return None
        return combined_shape(found[1], [self.arrays[key].shape for key in found[0]])

    @functools.cached_property
    def family(self) -> str:
        """ "encoder", or the family of the model that the keys make."""
        if not any(key.startswith("decode_head.") for key in self.arrays):
            return ENCODER
        contexts = (
            bool(self.count("decode_head.decoder_focal.blocks.{}.")),
            bool(self.count("decode_head.decoder_swin.blocks.{}.")),
        )
        return next(name for name, has in FAMILIES.items() if has == contexts)

    def count(self, pattern: str) -> int:
        """How many blocks there are: one more than the largest number any part of which is there."""
        leaves = ("norm1.weight", "norm2.weight", "mlp.fc1.weight", "norm.weight", "pwconv1.weight")
        present = [n for n in range(64) if any(self.find(pattern.format(n) + leaf) for leaf in leaves)]
        return max(present, default=-1) + 1

    @functools.cached_property
    def backbone(self) -> str | None:
        """The encoder whose sizes are nearest, so that a damaged file can be compared with it; None if none is near."""
        channels, depths, ratio = self._sizes()
        best, least = None, (len(channels), 0)
        for name in encoders.names():
            size = encoders.size_of(name)
            if re.fullmatch(self.origin.backbones, name):
                others = sum(a != b for a, b in zip(channels, size.channels, strict=True))
                others += bool(ratio) and ratio != getattr(size, "mlp_ratios", (ratio,))[0]
                distance = others, sum(abs(a - b) for a, b in zip(depths, size.depths, strict=True))
                if distance < least:
                    best, least = name, distance
        return best

    def _sizes(self) -> tuple[list[int], list[int], int]:
        """Channels and depths of the stages, ratio of the first stage's MLP; 0 for what is not there."""
        block, norm, mlp = self.origin.places
        stages = [{"stage": stage, "stage0": stage - 1} for stage in range(1, 5)]
        shapes = [self.shape(norm.format(**stage)) for stage in stages]
        depths = [self.count(block.format(**stage, block="{}")) for stage in stages]
        first = self.shape(mlp)
        return [shape[0] if shape else 0 for shape in shapes], depths, first[0] // first[1] if first else 0

    def settings(self, source: object) -> dict[str, Any]:
        """Fields of ``ModelConfig`` that differ from the defaults for this model (an encoder: for its SegFormer).

        Raises:
          InputError: no backbone is near.
        """
        if self.backbone is None:
            depths = ", ".join(map(str, self._sizes()[1]))
            problem = f"holds {self.origin.name(self.family)} of no size that is known (blocks a stage: {depths})"
            raise InputError(source, problem, f"known are {', '.join(encoders.names())}: give a whole file of one")
        family = "segformer" if self.family == ENCODER else self.family
        found: dict[str, Any] = {"name": f"{family}_{self.backbone}", **dict(self.origin.settings)}
        classifier = self.shape("decode_head.linear_pred.weight")
        if classifier:
            found["num_classes"] = classifier[0]
        fuse = self.shape("decode_head.linear_fuse.conv.weight")
        if fuse:
            found["width"] = fuse[0]
        blocks = {
            "blocks": ("decode_head.decoder_focal.blocks.{}.", LOCAL_BLOCKS),
            "global_blocks": ("decode_head.decoder_swin.blocks.{}.", GLOBAL_BLOCKS),
        }
        for field, (pattern, usual) in blocks.items():
            count = self.count(pattern)
            if count and count != usual[self.backbone]:
                found[field] = count
        return found


def combined_shape(combine: Combine, shapes: list[tuple[int, ...]]) -> tuple[int, ...] | None:
    """The shape that arrays of these shapes are combined to, without arrays; None if they cannot be."""
    try:
        return combine([np.broadcast_to(np.False_, shape) for shape in shapes]).shape
    except (ValueError, IndexError):
        return None


def recognise(arrays: Mapping[str, StoredArray], source: object) -> Foreign:
    """The origin of a state dict.

    Raises:
      InputError: it is of none that is known.
    """
    best, most = None, 0
    for wrapper in ("", *_WRAPPERS):
        if not all(key.startswith(wrapper) for key in arrays):
            continue
        for origin in ORIGINS:
            for prefix in ("", origin.prefix):
                names = {prefix + key.removeprefix(wrapper): key for key in arrays}
                marked = sum(bool(re.fullmatch(origin.marks, key)) for key in names)
                if marked > most:
                    best = Foreign(origin, {key: arrays[name] for key, name in names.items()}, names, prefix)
                    most = marked
    if best:
        return best
    some = ", ".join(list(arrays)[:3]) or "nothing"
    known = ", ".join(dict.fromkeys(name for origin in ORIGINS for name in origin.names.values()))
    raise InputError(source, f"holds no weights of a model that is known here ({some}, ...)", f"known are {known}")
