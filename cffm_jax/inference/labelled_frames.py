"""Videos of which only some frames have masks: these frames alone are segmented, each with its
references.

Of a snippet of Cityscapes that is 4 frames to encode and one to mine, instead of 30. Several
targets, whichever videos they are of, go through one call: each is a stream of the engine that ends
with its first step. A recurrent state needs every frame: there the whole video is segmented, and so
it is where that takes fewer frames, as of a video that lacks one mask.

Dimension key: T = R + 1 frames of a clip, H W the model's input, H0 W0 the original frames.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cffm_jax.data import decode
from cffm_jax.data.evaluation_frames import evaluation_size
from cffm_jax.data.layouts.video import Video
from cffm_jax.errors import InputError
from cffm_jax.inference.engine import Engine, jitted_step
from cffm_jax.inference.read_frames import Read, read_frame
from cffm_jax.inference.whole_videos import Chunk, VideoSegmenter, fetched, placing, prototypes_shape
from cffm_jax.runtime.compiling import compiling
from cffm_jax.runtime.read_ahead import read_ahead


class _Clip(NamedTuple):
    """A target with its references: frames u8[T, H, W, 3], target last, and its labels u8[H0,
    W0]."""

    video: Video
    target: int
    has_reference: bool
    frames: np.ndarray
    labels: np.ndarray


def segment_targets(segmenter: VideoSegmenter, variables: dict[str, Any], videos: Sequence[Video]) -> Iterator[Chunk]:
    """A chunk of one frame for each frame of the videos that has a mask, in order.

    ``chunk_size`` bounds the frames that are encoded in one call.

    Raises:
      InputError: a file cannot be read, frames of a clip differ in size, a video has no prototypes,
        or lacks a frame that a recurrent method needs.
    """
    for whole, group in itertools.groupby(videos, lambda video: _is_sooner_whole(segmenter, video)):
        yield from (_of_whole_videos if whole else _of_clips)(segmenter, variables, tuple(group))


def lower(segmenter: VideoSegmenter, variables: dict[str, Any], size: tuple[int, int]) -> jax.stages.Lowered:
    """The program of clips with one labelled frame each, whose original frames are of ``size``,
    uncompiled; otherwise as ``VideoSegmenter.lower``."""
    engine, count = _engine(segmenter)
    model, plan = segmenter.model, segmenter.config
    h, w = evaluation_size(*size, plan.data.frame_size, engine.input_multiple)
    state = jax.eval_shape(lambda: engine.start((h, w), count))
    frames = jax.ShapeDtypeStruct((count, engine.frames, h, w, len(model.channels)), model.channels.dtype)
    return jitted_step.lower(engine, variables, state, frames, prototypes_shape(segmenter, count), size=size)


def _is_sooner_whole(segmenter: VideoSegmenter, video: Video) -> bool:
    """Whether it has to be segmented up to its last target, or that takes no more frames than the
    clips. Where references go by numbers one that is missing has another in its place."""
    of_clips = len(video.targets) * (1 + len(_offsets(segmenter)))
    last = len(video.frames) - 1 if segmenter.following else max(video.targets, default=0)
    return segmenter.causal or (not video.numbers and last < of_clips)


def _of_clips(segmenter: VideoSegmenter, variables: dict[str, Any], videos: Sequence[Video]) -> Iterator[Chunk]:
    with ThreadPoolExecutor(max(1, segmenter.config.data.threads)) as pool:
        for clips, masks in fetched(_dispatched(pool, segmenter, variables, videos)):
            for i, clip in enumerate(clips):
                yield Chunk(clip.video, clip.target, clip.labels[None], {row: masks[row][i] for row in segmenter.rows})


def _of_whole_videos(segmenter: VideoSegmenter, variables: dict[str, Any], videos: Sequence[Video]) -> Iterator[Chunk]:
    """All frames up to the last one with a mask are segmented."""
    for video in videos:
        read = video if segmenter.following else _up_to_last_target(video, segmenter)
        for chunk in segmenter.segment(variables, [read], labels=False):
            for i, masks in enumerate(zip(*chunk.masks.values(), strict=True), chunk.start):
                if video.masks[i] is not None:
                    num_classes = segmenter.config.model.num_classes
                    labels = decode.read_label(video.frames[i], video.mask(i), num_classes, video.coding)
                    yield Chunk(video, i, labels[None], {row: mask[None] for row, mask in zip(chunk.masks, masks)})


def _up_to_last_target(video: Video, segmenter: VideoSegmenter) -> Video:
    for number, following in itertools.pairwise(video.numbers):
        if following != number + 1:
            chosen = segmenter.model.reads_prototypes
            what = "causal prototypes need" if chosen else f"the memory of {segmenter.model.public_name} needs"
            problem = f"frame {number + 1} is missing, and {what} every frame"
            remedy = "add it, or give --eval.prototypes video" if chosen else "add it"
            raise InputError(f"video {video.name}", problem, remedy)
    end = video.targets[-1] + 1
    return dataclasses.replace(video, frames=video.frames[:end], masks=video.masks[:end], numbers=video.numbers[:end])


def _dispatched(
    pool: ThreadPoolExecutor, segmenter: VideoSegmenter, variables: dict[str, Any], videos: Sequence[Video]
) -> Iterator[tuple[list[_Clip], dict[str, jax.Array]]]:
    """Clips of one size, and their masks, which the device is still to compute."""
    engine, count = _engine(segmenter)
    references = engine.frames - 1
    for clips in _groups(_load(pool, segmenter, videos, ahead=2 * count), count):
        filled = clips + clips[-1:] * (count - len(clips))
        prototypes = None
        if segmenter.prototypes:
            prototypes = np.stack([segmenter.prototypes.of(clip.video) for clip in filled])
        frames = np.stack([clip.frames for clip in filled])
        # Without references its last frame is a stream's first: the others, which stand in for
        # them, were not there.
        ages = np.array([0 if clip.has_reference else -references for clip in filled], np.int32)
        state = engine.start(frames.shape[2:4], count)._replace(ages=jnp.asarray(ages))
        arguments = jax.device_put((state, frames, prototypes), placing(variables))
        size = clips[0].labels.shape
        with compiling("the evaluation", segmenter.config.model.name, *frames.shape[:4], size):
            _, masks = jitted_step(engine, variables, *arguments, size=size)
        yield clips, masks


def _engine(segmenter: VideoSegmenter) -> tuple[Engine, int]:
    """What computes clips, and how many of them in a call."""
    references = len(_offsets(segmenter))
    engine = Engine(
        segmenter.model,
        segmenter.rows,
        tuple(range(references, 0, -1)),
        frames=1 + references,
        targets="last",
        tiles=segmenter.tiles,
    )
    return engine, max(1, segmenter.chunk // engine.frames)


def _offsets(segmenter: VideoSegmenter) -> tuple[int, ...]:
    """Offsets of the references that the method reads."""
    return segmenter.config.data.offsets if segmenter.model.reference_names else ()


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
    offsets = _offsets(segmenter)
    targets = (
        (video, target, video.references(target, offsets, segmenter.following))
        for video in videos
        for target in video.targets
    )
    wanted = (
        (video, (*((target,) * len(offsets) if references is None else references), target), references is not None)
        for video, target, references in targets
    )

    def reads(clip: tuple[Video, tuple[int, ...], bool]) -> list[Callable[[], Read]]:
        video, indices, _ = clip
        multiple = segmenter.engine.input_multiple
        read = functools.partial(read_frame, video=video, config=segmenter.config, multiple=multiple)
        return [functools.partial(read, i, label=i == indices[-1]) for i in sorted(set(indices))]

    for (video, indices, has_reference), read in read_ahead(pool, wanted, reads, ahead):
        yield _clip(video, indices, has_reference, dict(zip(sorted(set(indices)), read, strict=True)))


def _clip(video: Video, indices: tuple[int, ...], has_reference: bool, read: dict[int, Read]) -> _Clip:
    target = indices[-1]
    size = read[target][2]
    for i, (_, _, other) in read.items():
        if other != size:
            raise InputError(
                video.frames[i],
                f"is {other[1]}x{other[0]}, frame {video.frames[target]} {size[1]}x{size[0]}",
                "give a video one size",
            )
    labels = read[target][1]
    assert labels is not None  # `_load` asks for the target's.
    return _Clip(video, target, has_reference, np.stack([read[i][0] for i in indices]), labels)
