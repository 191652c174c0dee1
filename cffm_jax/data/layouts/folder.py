"""The plain layout, for one's own videos.

    <root>/<video>/frames/<frame>.jpg or .png
    <root>/<video>/masks/<frame>.png     of as many frames as one likes
    <root>/<split>.txt                   a video a line
    <root>/classes.txt or classes.json   optional: names, colours, the ignored label

A mask has one byte a pixel: the class index 0..K-1, or the ignored label (255 unless ``classes.json`` states another).
"""

from __future__ import annotations

import os

from cffm_jax.data.layouts.classes import ignored_label
from cffm_jax.data.layouts.names import list_files, numeric_order, read_names
from cffm_jax.data.layouts.video import Coding, Video, plain_coding
from cffm_jax.errors import InputError

FRAMES = (".jpg", ".jpeg", ".png")


def read_split(root: str, split: str, masks: bool) -> tuple[Video, ...]:
    """The videos of a split file; with ``masks`` those that have any, see `layouts.read_split`.

    Raises:
      InputError: a file or folder is missing or empty, a mask has no frame, no video has a mask, or the class file
        cannot be used.
    """
    _require_known_class_file(root)
    coding = plain_coding(ignored_label(root))
    path = os.path.join(root, f"{split}.txt")
    videos = tuple(_list_video(root, name, masks, coding) for name in read_names(path))
    if masks:
        videos = tuple(video for video in videos if video.targets)
        if not videos:
            raise InputError(path, "lists no video with a mask", "add masks as <video>/masks/<frame>.png")
    return videos


def _require_known_class_file(root: str) -> None:
    """InputError for classes.yaml and the like, which would go unread."""
    for name in sorted(os.listdir(root)):
        known = name in ("classes.txt", "classes.json")
        if os.path.splitext(name)[0].lower() == "classes" and not known and os.path.isfile(os.path.join(root, name)):
            problem = "is no class file that is read here"
            raise InputError(os.path.join(root, name), problem, "write classes.txt or classes.json")


def _list_video(root: str, name: str, masks: bool, coding: Coding) -> Video:
    folder = os.path.join(root, name)
    frames = list_files(os.path.join(folder, "frames"), FRAMES)
    if not frames:
        if not os.path.isdir(folder):
            raise InputError(folder, "the split lists this video but it is missing", "add it or correct the split file")
        problem = f"holds no frame ({', '.join(FRAMES)})"
        raise InputError(os.path.join(folder, "frames"), problem, "add the frames or remove the video from the split")
    stems = sorted(frames, key=numeric_order)
    labels = list_files(os.path.join(folder, "masks"), (".png",)) if masks else {}
    for stem, mask in labels.items():
        if stem not in frames:
            raise InputError(mask, f"there is no frame {stem} in {name}/frames", "add the frame or remove the mask")
    return Video(
        name,
        tuple(frames[stem] for stem in stems),
        tuple(labels.get(stem) for stem in stems) if masks else (),
        coding,
    )
