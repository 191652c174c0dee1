"""Which frames make a clip: index arithmetic on a video's length, no files.

Offsets say how many frames before the target the references lie, oldest first (CFFM section 4.1: 9, 6, 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np


def reference_indices(target: int, offsets: Sequence[int] = (9, 6, 3)) -> tuple[int, ...] | None:
    """References of a target frame in temporal order, or None where the video has too few frames before it.

    From index max(offsets) on they are ``target - offset``. Before, the references are spread over the frames that
    there are, ``ceil(target * (max - offset) / max)``, as the released implementation does it: the oldest is frame 0.
    None where the target has fewer frames before it than there are references.
    """
    longest = max(offsets, default=0)
    if target >= longest:
        return tuple(target - offset for offset in offsets)
    if target < len(offsets):
        return None
    # -(-a // b) is the exact ceiling of a / b.
    return tuple(-(-target * (longest - offset) // longest) for offset in offsets)


def training_clip(
    length: int, rng: np.random.Generator, offsets: Sequence[int] = (9, 6, 3), reverse: float = 0.5
) -> tuple[int, ...]:
    """Draws a training clip from a video: the references, oldest first, then the target.

    The video is read backwards with probability `reverse`; the target is drawn among the frames at index
    >= max(offsets) of the order read. In shorter videos it is drawn among the frames that have references by the rule
    of `reference_indices`; where none has, any frame, repeated as its own references (static contexts).

    Args:
      length: number of frames of the video, at least 1.
      rng: source of the draws.
      offsets: see the module.
      reverse: probability of reading the video backwards.

    Returns:
      len(offsets) + 1 indices into the video's frames.
    """
    backwards = rng.random() < reverse
    longest = max(offsets, default=0)
    first = longest if length > longest else len(offsets)
    if length > first:
        target = int(rng.integers(first, length))
        indices = (*reference_indices(target, offsets), target)
    else:
        target = int(rng.integers(length))
        indices = (target,) * (len(offsets) + 1)
    return tuple(length - 1 - index for index in indices) if backwards else indices


def prototype_indices(length: int, frames: int = 10, rule: Literal["release", "paper"] = "release") -> tuple[int, ...]:
    """Frames of a video whose features are clustered: all of a video that has no more than `frames`.

    With d = length // frames they are ``int((i + 0.5) * d)`` in the released code, ``i * d`` in the paper (CFFM++
    section 4.1, there counted from 1).
    """
    if length <= frames:
        return tuple(range(length))
    step = length // frames
    return tuple(int((i + 0.5) * step) if rule == "release" else i * step for i in range(frames))
