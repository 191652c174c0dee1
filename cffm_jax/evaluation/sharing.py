"""A split's videos shared among the devices of all processes: who gets which."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from cffm_jax.data.layouts.video import Video
from cffm_jax.errors import InputError
from cffm_jax.runtime.balance import balanced


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
    mine = iter(balanced([len(video.targets) for video in videos], sum(slots)))
    return [[tuple(videos[i] for i in next(mine)) for _ in range(count)] for count in slots]
