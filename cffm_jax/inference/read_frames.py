"""Frames of videos as the model sees them, with their labels: read ahead, in threads."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from cffm_jax.config import Config
from cffm_jax.data import decode, evaluation_frames
from cffm_jax.data.layouts.records import read_all
from cffm_jax.data.layouts.video import Video
from cffm_jax.errors import InputError
from cffm_jax.runtime.read_ahead import read_ahead

Read = tuple[np.ndarray, np.ndarray | None, tuple[int, int]]
"""A frame as the model sees it, its labels, and its original size."""


class Loaded(NamedTuple):
    """Consecutive frames of one size.

    Attributes:
      frames: u8[n, H, W, 3] or f32[n, H, W, K], as the model sees them.
      labels: u8[n, H0, W0], None where they were not asked for.
      size: (H0, W0), the frames' original one.
    """

    frames: np.ndarray
    labels: np.ndarray | None
    size: tuple[int, int]


def load_chunks(
    pool: ThreadPoolExecutor, videos: Sequence[Video], step: int, config: Config, labels: bool, multiple: int
) -> Iterator[tuple[Video, int, Loaded]]:
    """Chunks of ``step`` frames with their video and first frame's index, read one ahead;
    ``multiple``: of the sides that the model sees.

    Raises:
      InputError: a file cannot be used, or frames of a chunk differ in size.
    """
    spans = [(v, s, min(s + step, len(v.frames))) for v in videos for s in range(0, len(v.frames), step)]

    def reads(span: tuple[Video, int, int]) -> list[Callable[[], Read]]:
        read = functools.partial(read_frame, video=span[0], config=config, label=labels, multiple=multiple)
        return [functools.partial(read, i) for i in range(*span[1:])]

    for (video, start, _), read in read_ahead(pool, spans, reads, ahead=1):
        yield video, start, _stack(read, video, start)


def read_frame(index: int, *, video: Video, config: Config, label: bool, multiple: int) -> Read:
    """Reads a frame of a video and, with ``label``, its mask.

    Raises:
      InputError: one of the two cannot be used, or their sizes differ.
    """
    frame, box, channels = video.frames[index], config.data.frame_size, config.data.frame_channels
    if not label:
        image, size = evaluation_frames.load_evaluation_frame(frame, box, channels, multiple)
        return image, None, size
    mask = video.mask(index)
    stored, stored_mask = read_all([frame, mask])
    files, classes = (frame, mask, stored, stored_mask), config.model.num_classes
    image, labels = decode.decode_pair(*files, classes, video.coding, channels)
    return evaluation_frames.fit_frame(image, box, multiple), labels, labels.shape


def _stack(read: list[Read], video: Video, start: int) -> Loaded:
    size = read[0][2]
    for i, (_, _, other) in enumerate(read):
        if other != size:
            raise InputError(
                video.frames[start + i],
                f"is {other[1]}x{other[0]}, the frames before it {size[1]}x{size[0]}",
                "give a video one size",
            )
    labels = [label for _, label, _ in read if label is not None]  # All have theirs, or none.
    return Loaded(np.stack([image for image, _, _ in read]), np.stack(labels) if labels else None, size)
