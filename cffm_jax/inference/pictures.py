"""Pictures of results: sheets of time steps, videos side by side. Needs no model."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from cffm_jax import cluster
from cffm_jax.data import layouts
from cffm_jax.data.classes import palette
from cffm_jax.data.drawing import (
    CELL,
    PAPER,
    TRUTH,
    Strip,
    contact_sheet,
    side_by_side,
    spread,
    views,
    write_png,
)
from cffm_jax.inference.shared_folder import SharedFolder, when_all_have_written
from cffm_jax.whole import unwritable

if TYPE_CHECKING:
    from cffm_jax.inference.offline import Chunk

_PANEL = 480
"""Longest side of a video's panel, in pixels."""


class VideoFile:
    """An .mp4 (MPEG-4 part 2) in the making; a context manager: whole at its end, and nothing there after an error.

    Pictures of another size than the first are fitted into its size, on white. Without a picture no file appears.
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
        if self._writer is None:
            self._open(picture)
        self._writer.write(np.ascontiguousarray(_fitted(picture, self._size)[..., ::-1]))
        self._count += 1

    def _open(self, picture: np.ndarray) -> None:
        try:
            self._partial.touch()
        except OSError as error:
            raise unwritable(self.path, error) from error
        self._size = tuple(-(-side // 2) * 2 for side in picture.shape[:2])
        codec = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(str(self._partial), cv2.CAP_FFMPEG, codec, self._fps, self._size[::-1])
        if not self._writer.isOpened():
            raise unwritable(self.path, "OpenCV opens no MPEG-4 encoder")

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


def overlay_video(path: str | Path, panels: Iterable[Mapping[str, np.ndarray]], fps: float = 15) -> int:
    """Writes an .mp4 of pictures side by side, whole or not at all.

    Args:
      path: the file; one that is there is replaced.
      panels: for each time step the pictures by label, as `views` gives them.
      fps: time steps per second.

    Returns:
      The number of time steps.

    Raises:
      InputError: the file cannot be written.
    """
    count = 0
    with VideoFile(path, fps) as video:
        for step in panels:
            video.write(side_by_side(step))
            count += 1
    return count


def shown_times(video: layouts.Video, steps: int, first: int) -> tuple[int, ...]:
    """Frames on the sheet; of a video of which only some have masks, only these are segmented."""
    if not video.sparse:
        return spread(steps, len(video.frames), first)
    return tuple(video.targets[i] for i in spread(steps, len(video.targets)))


class FrameStrips:
    """A frame of some videos with all masks, side by side: input, per-frame, CFFM, CFFM++, ground truth.

    To be called with each chunk; always the same frames of the same videos, to be compared over a training.

    Attributes:
      pictures: video and frame -> u8[H,W,3], those that came by so far.
    """

    def __init__(self, videos: Sequence[layouts.Video], colours: np.ndarray, *, count: int = 3, first: int = 9):
        """``videos`` that will be segmented, ``count`` of which to draw; ``colours`` and ``first`` as below."""
        chosen = [videos[i] for i in spread(count, len(videos))] if videos else []
        # Of two times the later one: the first frames of a video have no references.
        self._times = {video.name: shown_times(video, 2, first)[-1] for video in chosen}
        self._colours = colours
        self.pictures: dict[str, np.ndarray] = {}

    def __call__(self, chunk: Chunk) -> None:
        i = self._times.get(chunk.video.name, -1) - chunk.start
        if 0 <= i < len(chunk.own):
            name = f"{chunk.video.name}/{chunk.start + i}"
            frame = layouts.read_frame(chunk.video.frames[chunk.start + i])
            self.pictures[name] = side_by_side(views(frame, _masks(chunk, i), self._colours, CELL))


def _masks(chunk: Chunk, i: int) -> dict[str, np.ndarray]:
    """A frame's masks by label, from the least that a model knows to the truth, where it is known."""
    masks = {row: chunk.masks[row][i] for row in reversed(chunk.masks)}
    return masks if chunk.labels is None else {**masks, TRUTH: chunk.labels[i]}


class PictureCollector:
    """Draws some videos while they are segmented: ``sheet.png`` and ``overlay.mp4`` in a folder.

    A context manager to be called with each chunk, by any process or thread; the first process draws at its end, and
    not after an error. Until then the masks lie on the disk: memory does not grow with the videos' length::

        with PictureCollector("pictures", videos, class_names) as pictures:
            evaluate(segmenter, variables, videos, watchers=[pictures])

    Args:
      folder: made if it is not there; pictures in it are replaced.
      videos: those that will be segmented.
      class_names: K names.
      count: how many of the videos to draw, evenly spread over them.
      steps: time steps of each video on the sheet.
      first: earliest frame on the sheet: before the largest offset a clip is not complete.
      fps: frames per second of the .mp4.
      colours: u8[256,3] of the classes; default: those of `classes.palette`.
      check: called for each frame that is drawn; what it raises ends the drawing.
    """

    def __init__(
        self,
        folder: str | Path,
        videos: Sequence[layouts.Video],
        class_names: Sequence[str],
        *,
        count: int = 3,
        steps: int = 5,
        first: int = 9,
        fps: float = 15,
        colours: np.ndarray | None = None,
        check: Callable[[], None] = lambda: None,
    ):
        self.folder = Path(folder)
        chosen = [videos[i] for i in spread(count, len(videos))] if videos else []
        self._videos = {video.name: (i, video) for i, video in enumerate(chosen)}
        self._times = {video.name: shown_times(video, steps, first) for video in chosen}
        self._names = tuple(class_names)
        self._colours = palette(len(class_names)) if colours is None else colours
        self._fps, self._check = fps, check
        self._kept = SharedFolder(self.folder / "masks", keep=False)

    def __call__(self, chunk: Chunk) -> None:
        if chunk.video.name not in self._videos:
            return
        number, _ = self._videos[chunk.video.name]
        with self._kept.writing() as folder:
            for i in range(len(chunk.own)):
                np.savez_compressed(folder / f"{number}_{chunk.start + i:08}.npz", **_masks(chunk, i))

    def __enter__(self) -> PictureCollector:
        with cluster.together():
            if cluster.first():
                try:
                    self.folder.mkdir(parents=True, exist_ok=True)
                except OSError as error:
                    raise unwritable(self.folder, error) from error
        self._kept.__enter__()
        return self

    def __exit__(self, kind: type | None, *rest: object) -> None:
        try:
            if kind is None:
                when_all_have_written(self._draw)
        finally:
            self._kept.__exit__(kind, *rest)
            with contextlib.suppress(OSError):
                os.rmdir(self.folder)  # Only when nothing came to be in it.

    def _draw(self) -> None:
        strips = []
        with self._kept.writing() as folder, VideoFile(self.folder / "overlay.mp4", self._fps) as video:
            for name, (number, of) in self._videos.items():
                strip = Strip(name, (), (), frozenset())
                for path in sorted(folder.glob(f"{number}_*.npz")):
                    self._check()
                    time = int(path.stem.partition("_")[2])
                    frame = layouts.read_frame(of.frames[time])
                    with np.load(path) as kept:
                        masks = dict(kept)
                    video.write(side_by_side(views(frame, masks, self._colours, _PANEL)))
                    if time in self._times[name]:
                        strip = _with(strip, time, views(frame, masks, self._colours, CELL), masks)
                strips += [strip] if strip.cells else []
            if strips:
                write_png(self.folder / "sheet.png", contact_sheet(strips, self._names, self._colours))


def _with(strip: Strip, time: int, cells: Mapping[str, np.ndarray], masks: Mapping[str, np.ndarray]) -> Strip:
    """The strip with a further frame."""
    held = {int(k) for mask in masks.values() for k in np.unique(mask)}
    return Strip(strip.title, (*strip.heads, f"frame {time}"), (*strip.cells, cells), strip.labels | held)
