"""What the devices exchange in a compiled program."""

from __future__ import annotations

import math
import re

_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast"
_BYTES = {"pred": 1, "u8": 1, "s8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8}


def collectives(program: str) -> dict[str, list[int]]:
    """Operation -> bytes of the result of each such instruction.

    Args:
      program: ``compiled.as_text()``, one device's share. What a loop repeats is counted once.
    """
    found: dict[str, list[int]] = {}
    for result, kind in re.findall(rf"= (\(?\w+\[.*?) ({_KINDS})(?:-start)?\(", program):
        arrays = re.findall(r"(\w+)\[([\d,]*)\]", result)
        size = sum(_BYTES[dtype] * math.prod(map(int, filter(None, sides.split(",")))) for dtype, sides in arrays)
        found.setdefault(kind, []).append(size)
    return found
