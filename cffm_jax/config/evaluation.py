"""Settings of an evaluation."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from cffm_jax.rules import setting

TILE: dict[str, Any] = {
    "lengths": (0, 2),
    "least": 64,
    "multiple_of": 32,
    "problem": "is {numbers}",
    "remedy": "give a height and a width of at least 64, multiples of 32, or none for whole frames",
    "formerly": "tile",
}
"""The rule for a tile's size, wherever one is asked for."""


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    chunk: int = setting(0, least=0, changes="nothing", remedy="give at least 1, or 0 for what suits the device")
    """Target frames segmented in one jitted call; 0: 8, on a CPU as many as have together no more
    pixels than one frame of 480p, and at least 1."""
    prototypes: Literal["video", "causal", "both"] = setting("video", changes="figures", part="method")
    """Prototypes of the whole video, of the frames seen so far, or a row of figures for each
    (CFFM++)."""
    references: Literal["past", "following"] = setting("past", changes="figures")
    """Where the references of an evaluated frame lie: before it, or as many frames after it while
    the video has them all, as TCB's release evaluates. Streams have past ones alone."""
    devices: int = setting(0, least=0, changes="nothing")
    """Devices that share the videos, of each process; 0 uses all."""
    short_videos: Literal["auto", "left_out", "counted"] = setting("auto", changes="figures")
    """Whether videos of at most 16 labelled frames are left out of mIoU, the best checkpoint and so
    on, as the released script has it for VSPW; auto: left out in VSPW's layout, counted in
    others."""
    max_videos: int = setting(0, least=0, changes="figures", remedy="give at least 1, or 0 for all")
    """Evaluate the first so many videos of the split only; 0 evaluates all."""
    tile_size: tuple[int, ...] = setting((), changes="figures", **TILE)
    """Height and width of tiles that frames, once resized, are segmented in, one after another:
    less memory for large ones. Default: whole frames."""
    overlap: int = setting(-1, goes_with=("eval.tile_size",), changes="figures")
    """Pixels that neighbouring tiles share at least, where their logits are blended; -1: a quarter
    of a tile's shorter side."""
