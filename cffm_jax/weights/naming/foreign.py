"""A state dict of a known origin, and the model that its names and shapes make."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cffm_jax.errors import InputError
from cffm_jax.models.create import create_model
from cffm_jax.models.encoders import names as encoders
from cffm_jax.models.encoders.backbone import Backbone
from cffm_jax.models.foreign.layouts import Combine
from cffm_jax.models.foreign.names import Sources, block_parts
from cffm_jax.weights.files.stored_array import StoredArray
from cffm_jax.weights.naming.origins import BACKBONE, ENCODER, Naming

_MOST_BLOCKS = 64


@dataclasses.dataclass(frozen=True)
class Foreign:
    """A state dict of a known origin.

    Attributes:
      naming: its origin, and the method whose keys it has; without one it is an encoder alone.
      arrays: by the keys of the origin with their prefix.
      names: those keys -> the file's, which errors name.
      added: prefix that the file does without.
      under: the file's own prefix of all these keys, of a wrapper or an attribute; "" for none.
      beside: the file's other keys, those of averages under other names among them.
    """

    naming: Naming
    arrays: Mapping[str, StoredArray]
    names: Mapping[str, str]
    added: str = ""
    under: str = ""
    beside: tuple[str, ...] = ()

    def name_of(self, key: str) -> str:
        """The file's name of a key, also of one that it lacks."""
        return self.names.get(key) or key.removeprefix(self.added)

    def is_encoder_key(self, key: str) -> bool:
        origin = self.naming.origin
        return key.startswith(origin.prefix) if origin.prefix else bool(re.fullmatch(origin.marks, key))

    def find(self, released: str) -> Sources | None:
        """Sources as of ``Naming.sources``, if the file has at least one of the keys."""
        sources = self.naming.sources(released)
        return sources if sources and any(key in self.arrays for key in sources[0]) else None

    def shape(self, released: str) -> tuple[int, ...] | None:
        """The released array's shape; None if it is not there, whole and fit to be combined."""
        sources = self.find(released)
        if not sources or any(key not in self.arrays for key in sources[0]):
            return None
        return combined_shape(sources[1], [self.arrays[key].shape for key in sources[0]])

    @functools.cached_property
    def counts(self) -> dict[str, int]:
        """Setting -> the number of the method's blocks that it stands for; of those there only."""
        method = self.naming.method
        if method is None:
            return {}
        blocks = method.blocks.items()
        counts = {setting: self._count(key, block_parts(method.layers, key)) for setting, key in blocks}
        return {setting: count for setting, count in counts.items() if count}

    @functools.cached_property
    def family(self) -> str:
        """``ENCODER``, or the family of the model that the keys make."""
        if self.naming.method is None:
            return ENCODER
        return next(name for name, has in self.naming.method.families.items() if has == tuple(self.counts))

    def _count(self, block: str, parts: Sequence[str], **stage: int) -> int:
        """Counts the blocks: one more than the largest number any part of which is there."""
        present = [
            n for n in range(_MOST_BLOCKS) if any(self.find(block.format(block=n, **stage) + part) for part in parts)
        ]
        return max(present, default=-1) + 1

    def _depths(self, backbone: Backbone) -> list[int]:
        """Blocks of the stages, if they are those of this family."""
        block = backbone.block[1]
        parts = block_parts(backbone.layers, block)
        stages = len(next(iter(backbone.sizes.values())).depths)
        return [self._count(BACKBONE + block, parts, stage=i + 1, stage0=i) for i in range(stages)]

    @property
    def has_blocks(self) -> bool:
        """Whether an array of any block of its encoder is there: other networks, such as a text
        encoder, may have some of the names beside them."""
        return any(any(self._depths(family)) for family in self._families())

    @property
    def backbone(self) -> str | None:
        """The encoder of nearest sizes, to compare a damaged file with; None if none is near."""
        return self._nearest[0]

    @property
    def fits(self) -> bool:
        """Whether the arrays by which an encoder of known sizes is told are all there."""
        return self._nearest[1]

    @functools.cached_property
    def _nearest(self) -> tuple[str | None, bool]:
        nearest, least = None, None
        for family in self._families():
            depths = self._depths(family)
            for name, size in family.sizes.items():
                shapes = family.shapes(size)
                others = sum(self.shape(BACKBONE + key) != shape for key, shape in shapes.items())
                distance = others, sum(abs(a - b) for a, b in zip(depths, size.depths, strict=True))
                if others < len(shapes) and (least is None or distance < least):
                    nearest, least = name, distance
        return nearest, least is not None and not least[0]

    def _families(self) -> list[Backbone]:
        return [family for family in encoders.BACKBONES if self.naming.origin in family.origins]

    def settings(self, source: object) -> dict[str, Any]:
        """The model's (an encoder: its SegFormer's) fields of ``ModelConfig`` that are no defaults.

        Raises:
          InputError: no backbone is near.
        """
        if self.backbone is None:
            depths = ", ".join(map(str, self._depths(self._families()[0])))
            problem = f"holds {self.naming.name(self.family)} of no size that is known (blocks a stage: {depths})"
            raise InputError(source, problem, f"known are {', '.join(encoders.names())}: give a whole file of one")
        name = f"{'segformer' if self.family == ENCODER else self.family}_{self.backbone}"
        settings: dict[str, Any] = {"name": name, **self.naming.settings}
        method = self.naming.method
        for field, key in method.lengths.items() if method else ():
            if shape := self.shape(key):
                settings[field] = shape[0]
        usual = create_model(name, 1).settings_resolved
        return settings | {field: count for field, count in self.counts.items() if count != usual[field]}


def combined_shape(combine: Combine, shapes: list[tuple[int, ...]]) -> tuple[int, ...] | None:
    """The shape of a combination of arrays of these shapes, without arrays; None if it is none."""
    try:
        return combine([np.broadcast_to(np.False_, shape) for shape in shapes]).shape
    except (ValueError, IndexError):
        return None
