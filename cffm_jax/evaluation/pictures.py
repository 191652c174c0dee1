"""Pictures of results: sheets of time steps, videos side by side. Needs no model."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cffm_jax.channels import COLOURS, Channels
from cffm_jax.data import decode
from cffm_jax.data.layouts.video import Video
from cffm_jax.drawing.masks import TRUTH, views
from cffm_jax.drawing.palette import palette
from cffm_jax.drawing.sheets import CELL, Strip, contact_sheet, side_by_side, spread, write_png
from cffm_jax.drawing.video_file import VideoFile
from cffm_jax.errors import InputError
from cffm_jax.evaluation.beside import require_new_names
from cffm_jax.evaluation.mask_folder import prediction_paths, read_prediction
from cffm_jax.runtime import cluster
from cffm_jax.runtime.atomic import unwritable
from cffm_jax.runtime.shared_folder import SharedFolder, when_all_have_written

if TYPE_CHECKING:
    from cffm_jax.inference.whole_videos import Chunk

_PANEL = 480
"""Longest side of a video's panel, in pixels."""
_FPS = 15
_OWN = "own"
"""In the name of the file that keeps the model's masks; other sources have numbers."""


def shown_times(video: Video, steps: int, first: int) -> tuple[int, ...]:
    """Frames on the sheet; of a video of which only some have masks, only these are segmented."""
    if not video.sparse:
        return spread(steps, len(video.frames), first)
    return tuple(video.targets[i] for i in spread(steps, len(video.targets)))


class FrameStrips:
    """A frame of some videos, side by side: input, masks per-frame, CFFM, CFFM++, ground truth.

    Call with each chunk; the frames are always the same, to be compared over a training.

    Attributes:
      pictures: video and frame -> u8[H,W,3], those that came by so far.
    """

    def __init__(
        self,
        videos: Sequence[Video],
        colours: np.ndarray,
        *,
        count: int = 3,
        first: int = 9,
        channels: Channels = COLOURS,
    ):
        """``videos`` to be segmented, ``count`` of them drawn; ``colours``, ``first``, ``channels``
        as below."""
        chosen = [videos[i] for i in spread(count, len(videos))] if videos else []
        # Of two times the later one: the first frames of a video have no references.
        self._times = {video.name: shown_times(video, 2, first)[-1] for video in chosen}
        self._colours, self._channels = colours, channels
        self.pictures: dict[str, np.ndarray] = {}

    def __call__(self, chunk: Chunk) -> None:
        i = self._times.get(chunk.video.name, -1) - chunk.start
        if 0 <= i < len(chunk.predictions):
            name = f"{chunk.video.name}/{chunk.start + i}"
            frame = decode.read_picture(chunk.video.frames[chunk.start + i], self._channels)
            self.pictures[name] = side_by_side(views(frame, _masks(chunk, i), self._colours, CELL))


def _masks(chunk: Chunk, i: int) -> dict[str, np.ndarray]:
    """A frame's masks by label, from what knows least to the truth, where it is known."""
    masks = {row: chunk.masks[row][i] for row in reversed(chunk.masks)}
    return masks if chunk.labels is None else {**masks, TRUTH: chunk.labels[i]}


class PictureCollector:
    """Draws some videos while they are segmented: ``sheet.png`` and ``overlay.mp4`` in a folder.

    A context manager, called with each chunk by any process or thread; the first process draws at
    its end, not after an error. Masks lie on disk until then, so that long videos need no memory::

        with PictureCollector("pictures", videos, class_names) as pictures:
            evaluate(segmenter, variables, videos, watchers=[pictures])

    Raises InputError where a folder of ``beside`` lacks a mask of a video that is drawn.

    Args:
      folder: made if it is not there; pictures in it are replaced.
      videos: those that will be segmented.
      class_names: K names.
      count: how many of the videos to draw, evenly spread over them.
      steps: time steps of each video on the sheet.
      first: earliest frame on the sheet: before the largest offset a clip is not complete.
      colours: u8[256,3] of the classes; default: those of `drawing.palette`.
      channels: of the frames.
      beside: names of other sources, a row each above the model's own: the folder of their masks,
        <folder>/<video>/<frame>.png, or "" of one whose chunks are given to ``watch``.
      check: called for each frame that is drawn; what it raises ends the drawing.
    """

    def __init__(
        self,
        folder: str | Path,
        videos: Sequence[Video],
        class_names: Sequence[str],
        *,
        count: int = 3,
        steps: int = 5,
        first: int = 9,
        colours: np.ndarray | None = None,
        channels: Channels = COLOURS,
        beside: Mapping[str, str | Path] | None = None,
        check: Callable[[], None] = lambda: None,
    ):
        self.folder = Path(folder)
        chosen = [videos[i] for i in spread(count, len(videos))] if videos else []
        self._videos = {video.name: (i, video) for i, video in enumerate(chosen)}
        self._times = {video.name: shown_times(video, steps, first) for video in chosen}
        self._names = tuple(class_names)
        self._colours = palette(len(class_names)) if colours is None else colours
        self._check, self._channels = check, channels
        self._kept = SharedFolder(self.folder / "masks", keep=False)
        self._beside = tuple(beside or ())
        self._paths = {
            (name, video.name): dict(zip(video.targets, prediction_paths(video, Path(path) / video.name)))
            for name, path in (beside or {}).items()
            if path
            for video in chosen
        }

    def __call__(self, chunk: Chunk) -> None:
        require_new_names(self._beside, chunk.masks)
        self._keep(chunk, _OWN)

    def watch(self, name: str) -> Callable[[Chunk], None]:
        """Takes the chunks of a source of ``beside``, by the same frames; before this one's end."""
        return lambda chunk: self._keep(chunk, f"{self._beside.index(name)}")

    def _keep(self, chunk: Chunk, source: str) -> None:
        if chunk.video.name not in self._videos:
            return
        number, _ = self._videos[chunk.video.name]
        with self._kept.writing() as folder:
            for i in range(len(chunk.predictions)):
                # Of another source its own masks alone.
                masks = _masks(chunk, i) if source == _OWN else {source: chunk.predictions[i]}
                path = folder / f"{number}_{chunk.start + i:08}.{source}.npz"
                np.savez_compressed(path, **masks)  # pyrefly: ignore[bad-argument-type]  # No row is "allow_pickle".

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
        with self._kept.writing() as folder, VideoFile(self.folder / "overlay.mp4", _FPS) as video:
            for name, (number, of) in self._videos.items():
                strip = Strip(name, (), (), frozenset())
                for path in sorted(folder.glob(f"{number}_*.{_OWN}.npz")):
                    self._check()
                    time = int(path.stem.partition("_")[2].partition(".")[0])
                    frame = decode.read_picture(of.frames[time], self._channels)
                    with np.load(path) as kept:
                        masks = {**self._masks_beside(of, time, frame.shape[:2], path), **kept}
                    video.write(side_by_side(views(frame, masks, self._colours, _PANEL)))
                    if time in self._times[name]:
                        strip = _with(strip, time, views(frame, masks, self._colours, CELL), masks)
                strips += [strip] if strip.cells else []
            if strips:
                write_png(self.folder / "sheet.png", contact_sheet(strips, self._names, self._colours))

    def _masks_beside(self, video: Video, time: int, size: tuple[int, ...], own: Path) -> dict[str, np.ndarray]:
        """A frame's masks of the other sources. InputError: one cannot be read, or is of another
        size; ``own``: where the model's masks of the frame are kept."""
        masks = {}
        for i, name in enumerate(self._beside):
            paths = self._paths.get((name, video.name))
            if paths is None:
                with np.load(own.with_name(own.name.replace(f".{_OWN}.", f".{i}."))) as kept:
                    masks[name] = kept[f"{i}"]
                continue
            masks[name] = mask = read_prediction(paths[time], len(self._names), video.coding.colours)
            if mask.shape != size:
                problem = f"is {mask.shape[1]}x{mask.shape[0]}, its frame {size[1]}x{size[0]}"
                raise InputError(paths[time], problem, "write it at the frame's size")
        return masks


def _with(strip: Strip, time: int, cells: Mapping[str, np.ndarray], masks: Mapping[str, np.ndarray]) -> Strip:
    """The strip with a further frame."""
    shown = {int(k) for mask in masks.values() for k in np.unique(mask)}
    return Strip(strip.title, (*strip.heads, f"frame {time}"), (*strip.cells, cells), strip.labels | shown)
