"""A split's videos shared among the devices of all processes: who gets which."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from cffm_jax.data.layouts.video import Video
from cffm_jax.errors import InputError


def chosen_devices(number: int, available: Sequence[jax.Device]) -> tuple[jax.Device, ...]:
    """The first so many devices; 0: all. InputError if there are not so many."""
    if not 0 <= number <= len(available):
        problem = f"{number} asked for, {len(available)} here"
        raise InputError("--eval.devices", problem, "ask for fewer, or 0 for all")
    return tuple(available[: number or len(available)])


def shares(videos: Sequence[Video], slots: Sequence[int]) -> list[list[tuple[Video, ...]]]:
    """Videos of each process's devices: the longest first, to the device with fewest frames so far.

    Args:
      videos: in the order in which a device takes those that it gets.
      slots: the number of devices of each process.
    """
    places = [(process, device) for process, count in enumerate(slots) for device in range(count)]
    frames = dict.fromkeys(places, 0)
    mine: dict[tuple[int, int], list[int]] = {place: [] for place in places}
    for i in sorted(range(len(videos)), key=lambda i: -len(videos[i].targets)):
        place = min(places, key=frames.__getitem__)
        frames[place] += len(videos[i].targets)
        mine[place].append(i)
    return [
        [tuple(videos[i] for i in sorted(mine[process, device])) for device in range(count)]
        for process, count in enumerate(slots)
    ]
