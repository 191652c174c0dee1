"""MPEG-4 video files of drawn frames."""

from __future__ import annotations

import contextlib
from pathlib import Path

import cv2
import numpy as np

from cffm_jax.drawing.sheets import PAPER
from cffm_jax.runtime.atomic import unwritable


class VideoFile:
    """Makes an .mp4 (MPEG-4 part 2); a context manager: whole at its end, nothing after an error.

    Pictures of other sizes than the first are fitted into its size, on white. No picture, no file.
    """

    def __init__(self, path: str | Path, fps: float = 15):
        self.path = Path(path)
        self._partial = self.path.with_name(f".{self.path.stem}.partial.mp4")
        self._fps = fps
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._count = 0

    def write(self, picture: np.ndarray) -> None:
        """Adds a picture u8[H,W,3] at its end. InputError if the file cannot be written."""
        writer = self._writer or self._open(picture)
        writer.write(np.ascontiguousarray(_fitted(picture, self._size)[..., ::-1]))
        self._count += 1

    def _open(self, picture: np.ndarray) -> cv2.VideoWriter:
        try:
            self._partial.touch()
        except OSError as error:
            raise unwritable(self.path, error) from error
        self._size = tuple(-(-side // 2) * 2 for side in picture.shape[:2])
        codec = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(str(self._partial), cv2.CAP_FFMPEG, codec, self._fps, self._size[::-1])
        if not self._writer.isOpened():
            raise unwritable(self.path, "OpenCV opens no MPEG-4 encoder")
        return self._writer

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if self._writer is not None:
            self._writer.release()
        try:
            if kind is None and self._count:
                self._finish()
        finally:
            with contextlib.suppress(OSError):
                self._partial.unlink(missing_ok=True)

    def _finish(self) -> None:
        """OpenCV does not say when a write fails: what is there is counted."""
        reader = cv2.VideoCapture(str(self._partial), cv2.CAP_FFMPEG)
        count = int(reader.get(cv2.CAP_PROP_FRAME_COUNT))
        reader.release()
        if count != self._count:
            raise unwritable(self.path, f"{count} of {self._count} pictures arrived")
        try:
            self._partial.replace(self.path)
        except OSError as error:
            raise unwritable(self.path, error) from error


def _fitted(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The picture in the middle of a white one of that size, reduced if it is larger."""
    if picture.shape[:2] == size:
        return picture
    factor = min(1.0, size[0] / picture.shape[0], size[1] / picture.shape[1])
    if factor < 1:
        shape = (max(1, int(picture.shape[1] * factor)), max(1, int(picture.shape[0] * factor)))
        picture = cv2.resize(picture, shape, interpolation=cv2.INTER_AREA)
    result = np.full((*size, 3), PAPER, np.uint8)
    top, left = ((whole - part) // 2 for whole, part in zip(size, picture.shape))
    result[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return result
