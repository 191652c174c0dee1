"""Cameras by their index, through OpenCV."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from fractions import Fraction

import cv2

from cffm_jax.errors import InputError
from cffm_jax.media.frame import Frame, Selection, Source

_RATE = 30.0
"""Frames a second of a camera that states none."""


@contextlib.contextmanager
def open_camera(index: str, selection: Selection) -> Iterator[Source]:
    """Opens a camera; its frames have the times at which they came.

    Raises:
      InputError: there is none of this index; while frames are read: it gives none.
    """
    logging = cv2.utils.logging
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)  # It tells of every way that it tried.
    try:
        # Larger numbers name a way to open a camera too, and none has so many.
        camera = cv2.VideoCapture(int(index)) if len(index) < 3 else None
    finally:
        logging.setLogLevel(level)
    if camera is None or not camera.isOpened():
        raise InputError(f"camera {index}", "is not there", "name another index, or a file")
    try:
        stated = camera.get(cv2.CAP_PROP_FPS)
        rate = Fraction(stated if 1 <= stated <= 1000 else _RATE).limit_denominator(1001)
        source = Source(f"camera {index}", iter(()), rate, Fraction(1, 90_000), live=True)
        source.frames = _frames(camera, source, selection)
        yield source
    finally:
        camera.release()


def _frames(camera: cv2.VideoCapture, source: Source, selection: Selection) -> Iterator[Frame]:
    number, taken, first = 0, 0, None
    while True:
        came, pixels = camera.read()
        if not came and taken:
            source.warnings.append(f"{source.name}: no frame came after {number}")
            return
        if not came:
            raise InputError(source.name, "gives no frame", "check its connection")
        now = time.monotonic()
        first = now if first is None else first
        since = now - first
        if selection.end is not None and since >= selection.end:
            return
        if since >= selection.start:
            if taken % selection.every == 0:
                yield Frame(pixels[..., ::-1], number, Fraction(since), f"{number:06}")
            taken += 1
        number += 1
