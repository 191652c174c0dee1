"""The boxes of an MP4 or MOV file. Source: ISO/IEC 14496-12, section 4.2."""

from __future__ import annotations

import io

from cffm_jax.errors import InputError

_MOST = 1000
"""Boxes at the top of a file that are looked at: a fragmented one has two a fragment."""


def announced_size(file: io.BufferedIOBase) -> int:
    """The least number of bytes that an MP4 has by its boxes; 0 for what is none."""
    place, size = 0, file.seek(0, 2)
    for _ in range(_MOST):
        file.seek(place)
        head = file.read(16)
        length, kind = int.from_bytes(head[:4]), head[4:8]
        if length == 1:
            length = int.from_bytes(head[8:])
        if place == 0 and kind != b"ftyp":
            return 0
        if length < 8:  # 0: to the end.
            return size
        place += length
        if place >= size:
            break
    return place


def require_whole(file: io.BufferedIOBase, name: str) -> None:
    """InputError for a file that is empty, or an MP4 that was cut off."""
    there, announced = file.seek(0, 2), announced_size(file)
    if not there:
        raise InputError(name, "is empty", "copy it again")
    if announced > there:
        problem = f"is cut off: {there:,} bytes are there, at least {announced:,} should be"
        raise InputError(name, problem, "copy it again: the index at its end is missing")
