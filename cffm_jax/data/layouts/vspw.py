"""VSPW: data/<video>/origin/*.jpg, data/<video>/mask/*.png, <split>.txt. Every frame has a mask."""

from __future__ import annotations

from cffm_jax.data.class_names import VSPW
from cffm_jax.data.layouts import video
from cffm_jax.data.layouts.layout import Prepared
from cffm_jax.data.layouts.video_folders import VideoFolders


class Vspw(VideoFolders):
    """VSPW_480p as it is downloaded."""

    name = "vspw"
    base, frames, suffixes, masks, every_frame = "data", "origin", (".jpg",), "mask", True
    default_coding = video.VSPW
    class_names = VSPW
    short_videos_left_out = True
    prepared = Prepared(
        "vspw",
        "VSPW, video scene parsing in the wild: frames and masks (1..124 are the classes, 0 and 255 ignored).",
        "https://www.vspwdataset.com",
    )


LAYOUT = Vspw()
