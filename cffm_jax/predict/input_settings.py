"""The settings of the weights' run, changed as an input and its options need them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from cffm_jax.config import Config
from cffm_jax.data import clips
from cffm_jax.errors import InputError
from cffm_jax.media.frame import Source


def settings_for(
    config: Config, source: Source, *, every: int, seconds: Sequence[float] | None, scale: tuple[int, ...]
) -> Config:
    """The settings with references at the wanted times, else as many input frames back as trained,
    and frames resized to fit the scale that is given.

    Of every so many-th frame the nearest are taken, at least one back.
    """
    from cffm_jax.inference.streaming import offsets_at

    data = config.data
    if seconds is None:
        offsets = tuple(max(1, round(offset / every)) for offset in data.offsets)
    elif source.rate > clips.FASTEST:
        problem = f"claims {float(source.rate):g} frames a second"
        raise InputError(source.name, problem, "leave out --reference-seconds, or convert it to its true rate")
    else:
        offsets = offsets_at(float(source.rate / every), len(data.offsets), seconds)
    data = dataclasses.replace(data, offsets=offsets, scale=(scale[0], scale[1]) if scale else data.scale)
    return dataclasses.replace(config, data=data)
