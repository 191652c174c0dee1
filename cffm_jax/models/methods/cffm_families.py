"""The papers' methods that are one network: their names, and which of its blocks each has. Without
JAX."""

from __future__ import annotations

from typing import NamedTuple


class Family(NamedTuple):
    """A method.

    Attributes:
      title: what the papers call it.
      blocks: fields of ``ModelConfig`` with the numbers of the blocks that it has: local contexts,
        global ones.
    """

    title: str
    blocks: tuple[str, ...]


FAMILIES = {
    "segformer": Family("SegFormer", ()),
    "cffm": Family("CFFM", ("blocks",)),
    "cffmp": Family("CFFM+", ("global_blocks",)),
    "cffmpp": Family("CFFM++", ("blocks", "global_blocks")),
}
"""First part of a model's public name -> the method."""


def with_blocks(*blocks: str) -> str:
    """The name of the family that has these blocks."""
    return next(name for name, family in FAMILIES.items() if family.blocks == blocks)


def parts_of(name: str) -> tuple[str, ...]:
    """A family, and those that its networks hold, best first: without global contexts, without
    any."""
    local = [block for block in FAMILIES[name].blocks if block != "global_blocks"]
    return tuple(dict.fromkeys((name, with_blocks(*local), with_blocks())))
