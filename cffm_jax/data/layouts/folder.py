"""The layout folder, for one's own videos.

    <root>/<video>/frames/<frame>.jpg, .png, .tif or .npy
    <root>/<video>/masks/<frame>.png     of as many frames as one likes
    <root>/<split>.txt                   a video a line
    <root>/classes.txt or classes.json   optional: names, colours, the ignored label

A mask has a byte a pixel: class 0..K-1 or the ignored label, 255 or that of ``classes.json``.
"""

from __future__ import annotations

import dataclasses
import os

from cffm_jax.data.layouts.class_file import ignored_label
from cffm_jax.data.layouts.layout import Fault, Prepared, stop
from cffm_jax.data.layouts.names import beside
from cffm_jax.data.layouts.video import Coding, Video, plain_coding
from cffm_jax.data.layouts.video_folders import FOLDER, VideoFolders
from cffm_jax.errors import InputError

_FRAMES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".npy")


class Folder(VideoFolders):
    """One's own videos."""

    name, frames = FOLDER
    base, suffixes, masks, every_frame = "", _FRAMES, "masks", False
    default_coding = plain_coding()
    fixed_labels = False
    prepared = Prepared("video_folder", "Videos, and masks of some of their frames (the classes' indices).")

    def coding(self, root: str) -> Coding:
        """The coding of the masks below ``root``. InputError: the class file cannot be used."""
        return plain_coding(ignored_label(root))

    def videos(self, root: str, split: str, masks: bool, fault: Fault = stop) -> tuple[Video, ...]:
        """The videos of a split file, see `Layout.videos`; with ``masks`` those that have any.

        Raises:
          InputError: a file or folder is missing or empty, a mask has no frame, no video has a
            mask, or the class file cannot be used.
        """
        videos = super().videos(root, split, masks, fault)
        if masks:
            labelled = [video for video in videos if video.targets]
            others = tuple(path for video in videos if not video.targets for path in video.passed_over)
            if not labelled:
                problem = "lists no video with a mask" + beside(others)
                remedy = "add masks as <video>/masks/<frame>.png: of other kinds they are not read"
                raise InputError(os.path.join(root, f"{split}.txt"), problem, remedy)
            # What videos without masks hold instead of them is not forgotten with these.
            first = dataclasses.replace(labelled[0], passed_over=(*labelled[0].passed_over, *others))
            return (first, *labelled[1:])
        return videos


LAYOUT = Folder()
