"""Kernels by the part of the model that they belong to, as their ``op_name`` tells."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable
from typing import NamedTuple, TypeVar

from .costs import Kernel, Summary, summary
from .targets import Target

K = TypeVar("K", bound=Hashable)
_PARTS = {
    "encoder: attention": r"/encoder/.*/attn",
    "encoder: MLP": r"/encoder/.*/mlp",
    "encoder: rest": r"/encoder/",
    "decoder": r"/decoder/|\.encode/",
    "pooled cells": r"reference_cells|/pools_",
    "global blocks": r"/globals_\d|\.mine_global",
    "mining": r"/local_\d|\.mine_",
    "classifiers": r"\.classify_",
    "loss": r"\.loss",
    "loops": r"/while/",
}
"""Part -> what is found in the names of its operations; the first that fits."""


def part_of(kernel: Kernel) -> str:
    """The part, with "(backward)" where the operation belongs to a gradient; "weights alone" of any part."""
    if kernel.weights_alone:
        return "weights alone"
    found = (part for part, pattern in _PARTS.items() if re.search(pattern, kernel.op_name))
    return next(found, "rest") + (" (backward)" if "transpose(" in kernel.op_name else "")


def operation_of(kernel: Kernel) -> str:
    """The last word of ``op_name``: JAX's primitive, of several fused ones that which XLA names."""
    return kernel.op_name.split(";")[0].rpartition("/")[2] or kernel.kind


def by_part(kernels: Iterable[Kernel], target: Target) -> dict[str, Summary]:
    """Part -> its kernels together, the longest first."""
    return dict(_grouped(kernels, target, part_of))


class Alike(NamedTuple):
    """What kernels have in common that are shown as one."""

    part: str
    operation: str
    kind: str
    shape: str
    waits_for: str


def alike(kernels: Iterable[Kernel], target: Target) -> list[tuple[Alike, Summary]]:
    """Kernels that differ in nothing but the block they stand in together, the longest first."""

    def key(each: Kernel) -> Alike:
        return Alike(part_of(each), operation_of(each), each.kind, each.shape, each.waits_for(target))

    return _grouped(kernels, target, key)


def _grouped(kernels: Iterable[Kernel], target: Target, key: Callable[[Kernel], K]) -> list[tuple[K, Summary]]:
    groups: dict[K, list[Kernel]] = {}
    for each in kernels:
        groups.setdefault(key(each), []).append(each)
    shares = [(name, summary(members, target)) for name, members in groups.items()]
    return sorted(shares, key=lambda item: -item[1].launch_ms)
