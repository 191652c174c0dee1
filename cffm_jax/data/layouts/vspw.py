"""VSPW: data/<video>/origin/*.jpg, data/<video>/mask/*.png."""

from __future__ import annotations

import os

from cffm_jax.data.layouts.names import list_files, numeric_order
from cffm_jax.data.layouts.video import Video
from cffm_jax.errors import InputError


def _list_video(data: str, name: str, masks: bool) -> Video:
    """Lists one video's frames and masks: two directory listings, no file is opened."""
    folder = os.path.join(data, name)
    origin = os.path.join(folder, "origin")
    frames = list_files(origin, (".jpg",))
    if not frames:
        if not os.path.isdir(folder):
            raise InputError(folder, "the split lists this video but it is missing", "add it or correct the split file")
        raise InputError(origin, "holds no .jpg frame", "add the frames or remove the video from the split")
    stems = sorted(frames, key=numeric_order)
    if not masks:
        return Video(name, tuple(frames[stem] for stem in stems), ())
    labels = list_files(os.path.join(folder, "mask"), (".png",))
    for stem in stems:
        if stem not in labels:
            raise InputError(frames[stem], f"has no mask mask/{stem}.png", "add the mask or remove the frame")
    return Video(name, tuple(frames[stem] for stem in stems), tuple(labels[stem] for stem in stems))
