"""Videos of which only some frames have masks: these frames alone are segmented, each with its references.

Of a snippet of Cityscapes that is 4 frames to encode and one to mine, instead of 30. Several targets, whichever videos
they are of, go through one jitted call.

Dimension key as in ``offline``, but n targets, and T = R + 1 frames of a clip.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from cffm_jax.data.layouts.video import Video
from cffm_jax.errors import InputError
from cffm_jax.inference.argmax import segmentation_masks
from cffm_jax.inference.read_frames import Read, read_frame
from cffm_jax.inference.rows import row_logits
from cffm_jax.inference.whole_videos import Chunk, VideoSegmenter, fetched, placing
from cffm_jax.models.cffm import CFFM
from cffm_jax.models.normalise import normalise


class _Clip(NamedTuple):
    """A target with its references: frames u8[T, H, W, 3], target last, and its labels u8[H0, W0]."""

    video: Video
    target: int
    has_reference: bool
    frames: np.ndarray
    labels: np.ndarray


def segment_targets(segmenter: VideoSegmenter, variables: dict[str, Any], videos: Sequence[Video]) -> Iterator[Chunk]:
    """A chunk of one frame for each frame of the videos that has a mask, in order.

    ``chunk_size`` bounds the frames that are encoded in one call.

    Raises:
      InputError: a file cannot be read, frames of a clip differ in size, a video has no prototypes, or causal ones are
        asked for.
    """
    if segmenter.causal:
        problem = f"causal prototypes need every frame, but only some of {videos[0].name} have masks and are segmented"
        raise InputError("--eval.prototypes", problem, "give video")
    with ThreadPoolExecutor(max(1, segmenter.config.data.threads)) as pool:
        for clips, masks in fetched(_dispatched(pool, segmenter, variables, videos)):
            for i, clip in enumerate(clips):
                own = {row: masks[row][i : i + 1] for row in segmenter.rows}
                yield Chunk(clip.video, clip.target, clip.labels[None], own)


def _dispatched(
    pool: ThreadPoolExecutor, segmenter: VideoSegmenter, variables: dict[str, Any], videos: Sequence[Video]
) -> Iterator[tuple[list[_Clip], dict[str, jax.Array]]]:
    """Clips of one size, and their masks, which the device is still to compute."""
    config = segmenter.config
    count = max(1, segmenter.chunk // (1 + len(config.data.offsets)))
    for clips in _groups(_load(pool, segmenter, videos, ahead=2 * count), count):
        filled = clips + clips[-1:] * (count - len(clips))
        prototypes = None
        if segmenter.prototypes:
            prototypes = np.stack([segmenter.prototypes.of(clip.video) for clip in filled])
        arrays = (
            np.stack([clip.frames for clip in filled]),
            np.array([clip.has_reference for clip in filled]),
            prototypes,
        )
        arrays = jax.device_put(arrays, placing(variables))
        size = clips[0].labels.shape
        yield clips, _segment(segmenter.model, segmenter.rows, variables, *arrays, output_size=size)


def _groups(clips: Iterator[_Clip], count: int) -> Iterator[list[_Clip]]:
    """At most ``count`` clips that follow on each other and have one size."""
    group: list[_Clip] = []
    for clip in clips:
        if group and (len(group) == count or clip.labels.shape != group[0].labels.shape):
            yield group
            group = []
        group.append(clip)
    if group:
        yield group


def _load(pool: ThreadPoolExecutor, segmenter: VideoSegmenter, videos: Sequence[Video], ahead: int) -> Iterator[_Clip]:
    """Reads some clips ahead of the one in use."""
    offsets = segmenter.config.data.offsets
    waiting: deque[tuple[Video, tuple[int, ...], bool, dict[int, Future]]] = deque()
    todo = ((video, target) for video in videos for target in video.targets)
    try:
        while True:
            for video, target in todo:
                references = video.references(target, offsets)
                indices = (*(references or (target,) * len(offsets)), target)
                read = functools.partial(read_frame, video=video, config=segmenter.config)
                futures = {i: pool.submit(read, i, label=i == target) for i in sorted(set(indices))}
                waiting.append((video, indices, references is not None, futures))
                if len(waiting) > ahead:
                    break
            if not waiting:
                return
            video, indices, has_reference, futures = waiting.popleft()
            read_ = {i: future.result() for i, future in futures.items()}
            yield _clip(video, indices, has_reference, read_)
    finally:
        for *_, futures in waiting:
            for future in futures.values():
                future.cancel()


def _clip(video: Video, indices: tuple[int, ...], has_reference: bool, read: dict[int, Read]) -> _Clip:
    target = indices[-1]
    size = read[target][2]
    for i, (_, _, other) in read.items():
        if other != size:
            raise InputError(
                video.frames[i],
                f"is {other[0]}x{other[1]}, frame {video.frames[target]} {size[0]}x{size[1]}",
                "give a video one size",
            )
    return _Clip(video, target, has_reference, np.stack([read[i][0] for i in indices]), read[target][1])


# Not a function of each segmenter: evaluations during training are one compiled program.
@functools.partial(jax.jit, static_argnums=(0, 1), static_argnames="output_size")
def _segment(
    model: CFFM,
    rows: tuple[str, ...],
    variables: dict[str, Any],
    clips: jax.Array,
    has_reference: jax.Array,
    prototypes: jax.Array | None,
    *,
    output_size: tuple[int, int],
) -> dict[str, jax.Array]:
    """Masks u8[n, H0, W0] of the targets for each row: clips u8[n, T, H, W, 3], has_reference bool[n], prototypes
    f32[n, P, C] or None."""
    n, t, h, w, _ = clips.shape
    bound = model.bind(variables)
    features = bound.encode(normalise(clips.reshape(n * t, h, w, 3)))
    fine = features.fine.reshape(n, t, *features.fine.shape[1:])[:, -1]
    coarse = features.coarse.reshape(n, t, *features.coarse.shape[1:])
    contexts = {} if prototypes is None else {rows[0]: prototypes}
    mined = bound.mine_local(coarse[:, -1], coarse[:, :-1]) if bound.local_blocks else None
    logits = row_logits(bound, fine, coarse[:, -1], mined, has_reference, contexts)
    return {row: segmentation_masks(logits[row], (h, w), output_size) for row in rows}
