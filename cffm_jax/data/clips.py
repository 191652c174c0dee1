"""Which frames make a clip: index arithmetic on a video's length, no files.

Offsets count frames from a reference to its target, oldest first (CFFM section 4.1: 9, 6, 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from cffm_jax.errors import InputError

FASTEST = 1000
"""Frames a second; what claims more is wrong."""
_LONGEST = 10.0
"""Seconds that a reference may lie back: its features are kept so long."""


def reference_indices(target: int, offsets: Sequence[int] = (9, 6, 3)) -> tuple[int, ...] | None:
    """References of a target in temporal order; None where the video has too few frames before it.

    From index max(offsets) on they are ``target - offset``. Before, they are spread over the frames
    that there are as in the released code, ``ceil(target * (max - offset) / max)``: the oldest is
    frame 0. None where fewer frames than references precede the target.
    """
    longest = max(offsets, default=0)
    if target >= longest:
        return tuple(target - offset for offset in offsets)
    if target < len(offsets):
        return None
    # -(-a // b) is the exact ceiling of a / b.
    return tuple(-(-target * (longest - offset) // longest) for offset in offsets)


def evaluation_indices(
    target: int, length: int, offsets: Sequence[int] = (9, 6, 3), following: bool = False
) -> tuple[int, ...] | None:
    """``reference_indices`` of a target in a video of so many frames; with ``following`` those
    after it, the farthest first, while there are all of them (as TCB's release evaluates)."""
    if following and target + max(offsets, default=0) < length:
        return tuple(target + offset for offset in offsets)
    return reference_indices(target, offsets)


def require_seconds(seconds: Sequence[float]) -> None:
    """InputError unless references can lie so many seconds back: above 0, to 10, longest first."""
    for each in seconds:
        if not 0 < each <= _LONGEST:
            raise InputError("--reference-seconds", f"{each:g} is given", f"give more than 0, to {_LONGEST:g}")
    if list(seconds) != sorted(seconds, reverse=True):
        problem = f"is {' '.join(f'{each:g}' for each in seconds)}"
        raise InputError("--reference-seconds", problem, "give the longest first: the oldest reference is the first")


def numbered_references(
    target: int, numbers: Sequence[int], offsets: Sequence[int] = (9, 6, 3), backwards: bool = False
) -> tuple[int | None, ...]:
    """References of a target by the frames' numbers, as in Cityscapes, where frames may be missing.

    For each offset the frame with that number before the target, where it is missing the one after,
    where both are None. Read backwards, before and after change places.

    Args:
      target: index into ``numbers``.
      numbers: of the frames that are there, in ascending order.
      offsets: see the module.
      backwards: whether the video is read backwards.

    Returns:
      Indices into ``numbers``, one for each offset.
    """
    there = {number: index for index, number in enumerate(numbers)}
    sign = -1 if backwards else 1
    indices = []
    for offset in offsets:
        past, future = (numbers[target] - way * sign * offset for way in (1, -1))
        indices.append(there.get(past, there.get(future)))
    return tuple(indices)


def training_clip(
    length: int,
    rng: np.random.Generator,
    offsets: Sequence[int] = (9, 6, 3),
    reverse: float = 0.5,
    targets: Sequence[int] | None = None,
) -> tuple[int, ...]:
    """Draws a training clip from a video: the references, oldest first, then the target.

    With probability `reverse` the video is read backwards. The target is drawn among indices >=
    max(offsets) of the order read; where no target is that late, among those with references by
    `reference_indices`; where none has, any, repeated as its own references (static contexts).

    Args:
      length: number of frames of the video, at least 1.
      rng: source of the draws.
      offsets: see the module.
      reverse: probability of reading the video backwards.
      targets: indices of the frames that may be targets, ascending, at least one; None for all.

    Returns:
      len(offsets) + 1 indices into the video's frames.
    """
    backwards = rng.random() < reverse
    longest = max(offsets, default=0)
    allowed = range(length) if targets is None else targets
    if backwards:
        allowed = [length - 1 - target for target in reversed(allowed)]
    late = [t for t in allowed if t >= longest] or [t for t in allowed if t >= len(offsets)]
    target = (late or allowed)[int(rng.integers(len(late or allowed)))]
    references = reference_indices(target, offsets)  # None only if none is late.
    indices = (target,) * (len(offsets) + 1) if references is None else (*references, target)
    return tuple(length - 1 - index for index in indices) if backwards else indices


def prototype_indices(length: int, frames: int = 10, rule: Literal["release", "paper"] = "release") -> tuple[int, ...]:
    """Frames whose features are clustered: all of a video that has no more than `frames`.

    With d = length // frames they are ``int((i + 0.5) * d)`` in the released code, ``i * d`` in the
    paper (CFFM++ section 4.1, there counted from 1).
    """
    if length <= frames:
        return tuple(range(length))
    step = length // frames
    return tuple(int((i + 0.5) * step) if rule == "release" else i * step for i in range(frames))
