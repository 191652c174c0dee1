"""Whole videos: chunks of n frames through the engine, every frame encoded once; reading overlaps
with computing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from cffm_jax.config import Config
from cffm_jax.data.evaluation_frames import evaluation_size
from cffm_jax.data.layouts.video import Video
from cffm_jax.errors import InputError
from cffm_jax.inference.engine import Engine, is_finite, jitted_step, not_finite
from cffm_jax.inference.read_frames import Loaded, load_chunks
from cffm_jax.inference.tiles import Tiling
from cffm_jax.models.methods.method import Method
from cffm_jax.runtime.compiling import compiling

T = TypeVar("T")

_CHUNK = 8
"""Frames of a call."""
_CPU_PIXELS = 480 * 864
"""Pixels of a call on a CPU at most, if it is not of one frame."""


class PrototypeSource(Protocol):
    """Gives prototypes f32[P, C] of a video, see ``inference.video_prototypes``."""

    def of(self, video: Video) -> np.ndarray: ...


class Chunk(NamedTuple):
    """Consecutive frames of a video and their masks.

    Attributes:
      video: the video.
      start: index of the first frame.
      labels: u8[n, H0, W0] ground truth, None where it was not asked for.
      masks: predictions u8[n, H0, W0] by ``Method.rows``, the model's own first.
    """

    video: Video
    start: int
    labels: np.ndarray | None
    masks: dict[str, np.ndarray]

    @property
    def predictions(self) -> np.ndarray:
        """The masks by the method itself, with all that it reads."""
        return next(iter(self.masks.values()))


def chunk_size(config: Config) -> int:
    """Frames of a call: ``eval.chunk``, or what suits the device.

    On CPUs the maps of two frames of 480p no longer fit into the cache, and each frame takes longer
    than alone.
    """
    pixels = math.prod(config.data.frame_size)  # 0 of frames of their own size, which is not known here.
    on_cpu = max(1, min(_CHUNK, _CPU_PIXELS // pixels)) if pixels else 1
    return config.eval.chunk or (on_cpu if jax.default_backend() == "cpu" else _CHUNK)


class VideoSegmenter:
    """Segments videos frame by frame with the released rule for the references of the first frames.

    Compiles once for each size of frames; a video's last chunk is padded.
    """

    def __init__(self, model: Method, config: Config, prototypes: PrototypeSource | None = None, *, parts: bool = True):
        """``prototypes`` gives those of a video to a method that reads any, unless they are all
        causal; without ``parts`` there are the method's own masks alone, not those of its parts
        too: less work."""
        self.config, self.model = config, model
        self.chunk = chunk_size(config)
        rows = model.rows(config.eval.prototypes)
        self.rows = rows if parts else rows[:1]
        contexts = model.contexts(config.eval.prototypes)
        self.prototypes = prototypes if "video" in contexts else None
        self.causal = "causal" in contexts
        self.following = config.eval.references == "following"
        if self.following and (contexts or not model.reference_names):
            what = "a memory of past frames" if contexts else "no other frames"
            problem = f"is following, and {model.public_name} reads {what}"
            raise InputError("--eval.references", problem, "leave it out, or evaluate another model")
        self.tiles = Tiling.of(config.eval.tile_size, config.eval.overlap, "eval.")
        self.engine = Engine(
            model,
            self.rows,
            config.data.offsets,
            frames=self.chunk,
            memory=max(config.data.offsets, default=0),
            causal=config.prototypes if self.causal else None,
            tiles=self.tiles,
        )

    def lower(self, variables: dict[str, Any], size: tuple[int, int]) -> jax.stages.Lowered:
        """The chunk's program for original frames of ``size``, uncompiled, for weights or their
        shapes; where these are placed, it runs."""
        h, w = evaluation_size(*size, self.config.data.frame_size, self.engine.input_multiple)
        prototypes = prototypes_shape(self, 1)
        frames = jax.ShapeDtypeStruct((1, self.chunk, h, w, len(self.model.channels)), self.model.channels.dtype)
        state = jax.eval_shape(lambda: self.engine.start((h, w)))
        return jitted_step.lower(self.engine, variables, state, frames, prototypes, size=size)

    def segment(self, variables: dict[str, Any], videos: Sequence[Video], *, labels: bool = True) -> Iterator[Chunk]:
        """The chunks of all videos in order, every frame of each. Reading overlaps with computing,
        and computing with what the caller does with the chunk before; memory does not grow with a
        video's length.

        Raises:
          InputError: a file cannot be read, frames of a video differ in size, or a video has no
            prototypes, or causal ones that are not finite.
        """
        if self.following:
            for video in videos:
                yield from self._with_following(variables, video, labels)
            return
        yield from self._in_order(variables, videos, labels)

    def _with_following(self, variables: dict[str, Any], video: Video, labels: bool) -> Iterator[Chunk]:
        """What follows a frame precedes it in the video read backwards. There the last frames,
        which lack some of it, are the first, and are taken of the video read forwards."""
        longest, length = max(self.config.data.offsets), len(video.frames)
        first = max(0, length - 2 * longest)  # From here on the last ones' references are there.
        found: dict[int, tuple[np.ndarray | None, dict[str, np.ndarray]]] = {}
        for backwards in (True, False):
            order = range(length - 1, -1, -1) if backwards else range(first, length)
            frames = tuple(video.frames[i] for i in order)
            masks = tuple(video.masks[i] for i in order) if video.masks else ()
            part = dataclasses.replace(video, frames=frames, masks=masks, numbers=())
            for chunk in self._in_order(variables, [part], labels):
                for i in range(len(chunk.predictions)):
                    target = order[chunk.start + i]
                    if backwards == (target + longest < length):
                        label = None if chunk.labels is None else chunk.labels[i]
                        found[target] = label, {row: mask[i] for row, mask in chunk.masks.items()}
        for start in range(0, length, self.chunk):
            truths, predictions = zip(*(found[i] for i in range(start, min(start + self.chunk, length))))
            stacked = {row: np.stack([each[row] for each in predictions]) for row in self.rows}
            yield Chunk(video, start, np.stack(truths) if labels else None, stacked)

    def _in_order(self, variables: dict[str, Any], videos: Sequence[Video], labels: bool) -> Iterator[Chunk]:
        with ThreadPoolExecutor(max(1, self.config.data.threads)) as pool:
            for (video, start, loaded, finite), masks in fetched(self._dispatched(pool, variables, videos, labels)):
                count = len(loaded.frames)
                if finite is not None and not finite:
                    raise not_finite(video.frames[start], count - 1)
                yield Chunk(video, start, loaded.labels, {row: masks[row][0, :count] for row in self.rows})

    def _dispatched(
        self, pool: ThreadPoolExecutor, variables: dict[str, Any], videos: Sequence[Video], labels: bool
    ) -> Iterator[tuple[tuple[Video, int, Loaded, jax.Array | None], dict[str, jax.Array]]]:
        """The chunks that were read, whether their causal prototypes are finite (None: there are
        none), and their masks, which the device is still to compute."""
        state = prototypes = None
        size, multiple = (0, 0), self.engine.input_multiple
        for video, start, loaded in load_chunks(pool, videos, self.chunk, self.config, labels, multiple):
            if start == 0:
                size = loaded.size
                # Placed like the weights: what comes back is, and another placing would compile
                # again.
                state = jax.device_put(self._start(video, loaded), placing(variables))
                prototypes = self.prototypes.of(video)[None] if self.prototypes else None
            elif loaded.size != size:
                raise InputError(
                    video.frames[start],
                    f"is {loaded.size[1]}x{loaded.size[0]}, the video's first frame {size[1]}x{size[0]}",
                    "give a video one size",
                )
            with compiling("the evaluation", self.config.model.name, self.chunk, *loaded.frames.shape[1:3], size):
                state, masks = jitted_step(
                    self.engine, variables, state, self._fill(loaded.frames)[None], prototypes, size=size
                )
            yield (video, start, loaded, is_finite(state.recurrent) if self.causal else None), masks

    def _start(self, video: Video, loaded: Loaded) -> Any:
        try:
            return self.engine.start(loaded.frames.shape[1:3])
        except InputError as error:  # The video is what is too small, or a tile.
            remedy = (
                f"{error.remedy} with {error.where}{', or larger ones with --eval.tile-size' if self.tiles else ''}"
            )
            raise InputError(video.frames[0], error.problem, remedy) from error

    def _fill(self, frames: np.ndarray) -> np.ndarray:
        """Repeats the last frame up to a whole chunk."""
        return np.concatenate([frames, np.repeat(frames[-1:], self.chunk - len(frames), 0)])


def fetched(
    dispatched: Iterator[tuple[T, dict[str, jax.Array]]],
) -> Iterator[tuple[T, dict[str, np.ndarray]]]:
    """Yields the dispatched chunks, with their masks on the host. They are waited for when the next
    is dispatched: the device computes while the caller counts and writes. So two are in flight."""
    waiting: tuple[T, dict[str, jax.Array]] | None = None

    for item in dispatched:
        for mask in item[1].values():
            mask.copy_to_host_async()
        if waiting is not None:
            yield _on_host(waiting)
        waiting = item
    if waiting is not None:
        yield _on_host(waiting)


def _on_host(item: tuple[T, dict[str, jax.Array]]) -> tuple[T, dict[str, np.ndarray]]:
    return item[0], {row: np.asarray(mask) for row, mask in item[1].items()}


def placing(variables: dict[str, Any]) -> jax.sharding.Sharding | None:
    """The sharding of the weights, which is the same for all; None for arrays that are not on a
    device yet."""
    return getattr(jax.tree.leaves(variables)[0], "sharding", None)


def prototypes_shape(segmenter: VideoSegmenter, videos: int) -> jax.ShapeDtypeStruct | None:
    """f32[videos, P, C]; None for a segmenter that is given none."""
    if not segmenter.prototypes:
        return None
    return jax.ShapeDtypeStruct((videos, segmenter.config.prototypes.count, segmenter.model.width), jnp.float32)
