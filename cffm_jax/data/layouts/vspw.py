"""VSPW: data/<video>/origin/*.jpg, data/<video>/mask/*.png, <split>.txt. Every frame has a mask."""

from __future__ import annotations

from cffm_jax.config import IGNORED_LABEL
from cffm_jax.data.class_names import VSPW
from cffm_jax.data.layouts.layout import Prepared
from cffm_jax.data.layouts.video import Coding
from cffm_jax.data.layouts.video_folders import VideoFolders

CODING = Coding.of([IGNORED_LABEL, *range(254)], (0, IGNORED_LABEL), "labels 1..{classes}")
"""1..K are the classes 0..K-1; 0 and 255 are ignored."""


class Vspw(VideoFolders):
    """VSPW_480p as it is downloaded."""

    name = "vspw"
    base, frames, suffixes, masks, every_frame = "data", "origin", (".jpg",), "mask", True
    default_coding = CODING
    class_names = VSPW
    short_videos_left_out = True
    prepared = Prepared(
        "vspw",
        "VSPW, video scene parsing in the wild: frames and masks (1..124 are the classes, 0 and 255 ignored).",
        "https://www.vspwdataset.com",
    )


LAYOUT = Vspw()
