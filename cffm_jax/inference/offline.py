"""Whole videos in chunks: every frame is encoded once, every target mined with the cached features of its references.

Dimension key: n frames of a chunk, R references, M frames of memory (the largest offset), H W the model's input,
H0 W0 the original frames, h w the map at stride 8, C its channels.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cffm_jax.config import Config
from cffm_jax.data import clips, layouts, pipeline
from cffm_jax.errors import InputError
from cffm_jax.frames import normalise
from cffm_jax.inference.masks import segmentation_masks
from cffm_jax.models.cffm import CFFM


class Masks(NamedTuple):
    """Masks of some frames: ``clip`` by the clip's logits, ``frame`` by the frame's own logits, u8[n, H0, W0] each."""

    clip: np.ndarray
    frame: np.ndarray


class Chunk(NamedTuple):
    """Consecutive frames of a video and their masks.

    Attributes:
      video: the video.
      start: index of the first frame.
      labels: u8[n, H0, W0] ground truth, None where it was not asked for.
      masks: predictions.
    """

    video: layouts.Video
    start: int
    labels: np.ndarray | None
    masks: Masks


class _Loaded(NamedTuple):
    frames: np.ndarray
    labels: np.ndarray | None
    size: tuple[int, int]


_Read = tuple[np.ndarray, np.ndarray | None, tuple[int, int]]
"""A frame as the model sees it, its labels, and its original size."""


class VideoSegmenter:
    """Segments videos frame by frame with the released rule for the references of the first frames.

    Compiles once for each size of frames; a video's last chunk is padded.
    """

    def __init__(self, model: CFFM, config: Config):
        self.config = config
        self.memory = max(config.data.offsets)
        self.chunk = config.eval.chunk
        self._model = model
        self._segment = jax.jit(functools.partial(_segment, model), static_argnames="output_size", donate_argnums=1)

    def lower(self, variables: dict[str, Any], size: tuple[int, int]) -> jax.stages.Lowered:
        """The chunk's program for original frames of ``size``, uncompiled: for measuring it."""
        h, w = pipeline.evaluation_size(*size, self.config.data.scale)
        references = len(self.config.data.offsets)
        return self._segment.lower(
            variables,
            self._empty_memory(h, w),
            jax.ShapeDtypeStruct((self.chunk, h, w, 3), jnp.uint8),
            jax.ShapeDtypeStruct((self.chunk, references), jnp.int32),
            jax.ShapeDtypeStruct((self.chunk,), jnp.bool_),
            output_size=size,
        )

    def _empty_memory(self, height: int, width: int) -> jax.Array:
        return jnp.zeros((self.memory, height // 8, width // 8, self._model.width), self._model.dtype)

    def segment(
        self, variables: dict[str, Any], videos: Sequence[layouts.Video], *, labels: bool = True
    ) -> Iterator[Chunk]:
        """The chunks of all videos in order. Reading overlaps with computing; memory does not grow with a video's
        length.

        Raises:
          InputError: a file cannot be read, or frames of a video differ in size.
        """
        threads = max(1, self.config.data.threads)
        with ThreadPoolExecutor(threads) as pool:
            memory = None
            for video, start, loaded in self._load(pool, videos, labels):
                h, w = loaded.frames.shape[1:3]
                if start == 0:
                    # Placed like the weights: what comes back is, and another placing would compile again.
                    memory = jax.device_put(self._empty_memory(h, w), _placing(variables))
                    size = loaded.size
                elif loaded.size != size:
                    raise InputError(
                        video.frames[start],
                        f"is {loaded.size[0]}x{loaded.size[1]}, the video's first frame {size[0]}x{size[1]}",
                        "give a video one size",
                    )
                reference, has_reference = self._references(start)
                memory, clip, frame = self._segment(
                    variables, memory, self._fill(loaded.frames), reference, has_reference, output_size=size
                )
                n = len(loaded.frames)
                yield Chunk(video, start, loaded.labels, Masks(np.asarray(clip)[:n], np.asarray(frame)[:n]))

    def _fill(self, frames: np.ndarray) -> np.ndarray:
        """Repeats the last frame up to a whole chunk."""
        return np.concatenate([frames, np.repeat(frames[-1:], self.chunk - len(frames), 0)])

    def _references(self, start: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions i32[n, R] of each frame's references in memory + chunk, and bool[n], whether it has any.

        With ``eval.references`` "self" the positions are the frame's own: what a model gains from its neighbours is
        the difference.
        """
        found = [clips.reference_indices(t, self.config.data.offsets) for t in range(start, start + self.chunk)]
        count = len(self.config.data.offsets)
        own = [(t,) * count for t in range(start, start + self.chunk)]
        past = self.config.eval.references == "past"
        rows = [indices if past and indices else self_ for indices, self_ in zip(found, own)]
        positions = np.array(rows, np.int32) - start + self.memory
        return positions, np.array([indices is not None for indices in found])

    def _load(
        self, pool: ThreadPoolExecutor, videos: Sequence[layouts.Video], labels: bool
    ) -> Iterator[tuple[layouts.Video, int, _Loaded]]:
        """Reads a chunk ahead of the one in use."""
        step = self.chunk
        spans = [(v, s, min(s + step, len(v.frames))) for v in videos for s in range(0, len(v.frames), step)]
        waiting: deque[tuple[layouts.Video, int, list[Future]]] = deque()

        def submit(video: layouts.Video, start: int, stop: int) -> None:
            read = functools.partial(_read, scale=self.config.data.scale, num_classes=self.config.model.num_classes)
            files = zip(video.frames[start:stop], video.masks[start:stop] if labels else [None] * (stop - start))
            waiting.append((video, start, [pool.submit(read, frame, mask) for frame, mask in files]))

        try:
            for i, span in enumerate(spans):
                if not waiting:
                    submit(*span)
                if i + 1 < len(spans):
                    submit(*spans[i + 1])
                video, start, futures = waiting.popleft()
                yield video, start, _stack([future.result() for future in futures], video, start)
        finally:
            for _, _, futures in waiting:
                for future in futures:
                    future.cancel()


def _placing(variables: dict[str, Any]) -> jax.sharding.Sharding | None:
    """The sharding of the weights, which is the same for all; None for arrays that are not on a device yet."""
    return getattr(jax.tree.leaves(variables)[0], "sharding", None)


def _read(frame: str, mask: str | None, *, scale: tuple[int, int], num_classes: int) -> _Read:
    image, size = pipeline.load_evaluation_frame(frame, scale)
    if mask is None:
        return image, None, size
    label = layouts.read_mask(mask, num_classes)
    if label.shape != size:
        raise InputError(
            mask,
            f"is {label.shape[0]}x{label.shape[1]}, its frame {size[0]}x{size[1]}",
            "give the mask its frame's size",
        )
    return image, label, size


def _stack(read: list[_Read], video: layouts.Video, start: int) -> _Loaded:
    size = read[0][2]
    for i, (_, _, other) in enumerate(read):
        if other != size:
            raise InputError(
                video.frames[start + i],
                f"is {other[0]}x{other[1]}, the frames before it {size[0]}x{size[1]}",
                "give a video one size",
            )
    labels = None if read[0][1] is None else np.stack([label for _, label, _ in read])
    return _Loaded(np.stack([image for image, _, _ in read]), labels, size)


def _segment(
    model: CFFM,
    variables: dict[str, Any],
    memory: jax.Array,
    frames: jax.Array,
    reference: jax.Array,
    has_reference: jax.Array,
    *,
    output_size: tuple[int, int],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Masks of a chunk.

    Args:
      model: the module.
      variables: its weights.
      memory: [M, h, w, C], features of the frames before the chunk.
      frames: u8[n, H, W, 3].
      reference: i32[n, R], positions in memory + chunk.
      has_reference: bool[n]; frames without references get their own logits.
      output_size: (H0, W0).

    Returns:
      The memory for the next chunk, the clip's and the frame's masks u8[n, H0, W0].
    """
    input_size = frames.shape[1:3]
    bound = model.bind(variables)
    features = bound.encode(normalise(frames))
    frame_logits = bound.classify_frames(features.fine)
    frame_masks = segmentation_masks(frame_logits, input_size, output_size)
    known = jnp.concatenate([memory, features.coarse])
    if not model.local_blocks:
        return known[-len(memory) :], frame_masks, frame_masks
    mined = bound.mine_local(features.coarse, known[reference])
    logits = bound.classify_clip(features.coarse, mined)
    masks = segmentation_masks(logits, input_size, output_size)
    return known[-len(memory) :], jnp.where(has_reference[:, None, None], masks, frame_masks), frame_masks
