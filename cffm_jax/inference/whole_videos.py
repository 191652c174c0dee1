"""Whole videos in chunks: every frame is encoded once, every target mined with the cached features of its references.

Dimension key: n frames of a chunk, R references, M frames of memory (the largest offset), H W the model's input,
H0 W0 the original frames, h w the map at stride 8, C its channels, P prototypes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from cffm_jax.config import Config
from cffm_jax.data import clips, evaluation_frames
from cffm_jax.data.layouts.video import Video
from cffm_jax.errors import InputError
from cffm_jax.inference.argmax import segmentation_masks
from cffm_jax.inference.read_frames import Loaded, load_chunks
from cffm_jax.inference.rows import causal_prototypes, row_logits, row_names
from cffm_jax.models.cffm import CFFM
from cffm_jax.models.kmeans import RunningClusters
from cffm_jax.models.normalise import normalise

T = TypeVar("T")


class PrototypeSource(Protocol):
    """Gives prototypes f32[P, C] of a video, see ``inference.prototypes``."""

    def of(self, video: Video) -> np.ndarray: ...


_CHUNK = 8
"""Frames of a call."""
_CPU_PIXELS = 480 * 864
"""Pixels of a call on a CPU at most, if it is not of one frame."""


class Chunk(NamedTuple):
    """Consecutive frames of a video and their masks.

    Attributes:
      video: the video.
      start: index of the first frame.
      labels: u8[n, H0, W0] ground truth, None where it was not asked for.
      masks: predictions u8[n, H0, W0] by ``row_names``, the model's own first.
    """

    video: Video
    start: int
    labels: np.ndarray | None
    masks: dict[str, np.ndarray]

    @property
    def own(self) -> np.ndarray:
        """The masks by all that the model knows."""
        return next(iter(self.masks.values()))


class _State(NamedTuple):
    """What a chunk hands on to the next: features [M, h, w, C] of the last frames, causal prototypes if asked for."""

    memory: jax.Array
    running: RunningClusters | None


def chunk_size(config: Config) -> int:
    """Frames of a call: ``eval.chunk``, or what suits the device.

    On CPUs the maps of two frames of 480p no longer fit into the cache, and each frame takes longer than alone.
    """
    width, height = config.data.scale
    on_cpu = max(1, min(_CHUNK, _CPU_PIXELS // (width * height)))
    return config.eval.chunk or (on_cpu if jax.default_backend() == "cpu" else _CHUNK)


class VideoSegmenter:
    """Segments videos frame by frame with the released rule for the references of the first frames.

    Compiles once for each size of frames; a video's last chunk is padded.
    """

    def __init__(self, model: CFFM, config: Config, prototypes: PrototypeSource | None = None, *, parts: bool = True):
        """``prototypes`` gives those of a video to a model with global contexts, unless they are all causal; without
        ``parts`` there are the model's own masks alone, not those of what it is made of too: less work."""
        self.config = config
        self.memory = max(config.data.offsets)
        self.chunk = chunk_size(config)
        names = row_names(model, config.eval.prototypes)
        self.rows = names if parts else names[:1]
        self.model = model
        mode = config.eval.prototypes if model.global_blocks else ""
        self.prototypes = prototypes if mode in ("video", "both") else None
        self.causal = mode in ("causal", "both")
        self._segment = jax.jit(
            functools.partial(_segment, model, config, names, self.rows),
            static_argnames="output_size",
            donate_argnums=1,
        )

    def lower(self, variables: dict[str, Any], size: tuple[int, int]) -> jax.stages.Lowered:
        """The chunk's program for original frames of ``size``, uncompiled: for measuring it."""
        h, w = evaluation_frames.evaluation_size(*size, self.config.data.scale)
        references = len(self.config.data.offsets)
        prototypes = jax.ShapeDtypeStruct((self.config.prototypes.count, self.model.width), jnp.float32)
        return self._segment.lower(
            variables,
            self.start(h, w),
            jax.ShapeDtypeStruct((self.chunk, h, w, 3), jnp.uint8),
            jax.ShapeDtypeStruct((self.chunk,), jnp.int32),
            jax.ShapeDtypeStruct((self.chunk, references), jnp.int32),
            jax.ShapeDtypeStruct((self.chunk,), jnp.bool_),
            prototypes if self.prototypes else None,
            output_size=size,
        )

    def start(self, height: int, width: int) -> _State:
        """What the first chunk of a video is given, for model inputs of that size."""
        h, w, c = height // 8, width // 8, self.model.width
        count = self.config.prototypes.count
        running = None
        if self.causal:
            running = RunningClusters(jnp.zeros((count, c)), jnp.zeros(count), jnp.zeros((), jnp.int32))
        return _State(jnp.zeros((self.memory, h, w, c), self.model.dtype), running)

    def segment(self, variables: dict[str, Any], videos: Sequence[Video], *, labels: bool = True) -> Iterator[Chunk]:
        """The chunks of all videos in order, every frame of each. Reading overlaps with computing, and computing with
        what the caller does with the chunk before; memory does not grow with a video's length.

        Raises:
          InputError: a file cannot be read, frames of a video differ in size, or a video has no prototypes.
        """
        with ThreadPoolExecutor(max(1, self.config.data.threads)) as pool:
            for (video, start, loaded), masks in fetched(self._dispatched(pool, variables, videos, labels)):
                own = {row: masks[row][: len(loaded.frames)] for row in self.rows}
                yield Chunk(video, start, loaded.labels, own)

    def _dispatched(
        self, pool: ThreadPoolExecutor, variables: dict[str, Any], videos: Sequence[Video], labels: bool
    ) -> Iterator[tuple[tuple[Video, int, Loaded], dict[str, jax.Array]]]:
        """The chunks that were read, and their masks, which the device is still to compute."""
        state = prototypes = None
        for video, start, loaded in load_chunks(pool, videos, self.chunk, self.config, labels):
            h, w = loaded.frames.shape[1:3]
            if start == 0:
                self._require_tokens(video, h, w)
                # Placed like the weights: what comes back is, and another placing would compile again.
                state = jax.device_put(self.start(h, w), placing(variables))
                prototypes = self.prototypes.of(video) if self.prototypes else None
                size = loaded.size
            elif loaded.size != size:
                raise InputError(
                    video.frames[start],
                    f"is {loaded.size[0]}x{loaded.size[1]}, the video's first frame {size[0]}x{size[1]}",
                    "give a video one size",
                )
            index = np.arange(start, start + self.chunk, dtype=np.int32)
            state, masks = self._segment(
                variables, state, self._fill(loaded.frames), index, *self._references(start), prototypes,
                output_size=size,
            )  # fmt: skip
            yield (video, start, loaded), masks

    def _require_tokens(self, video: Video, height: int, width: int) -> None:
        tokens, count = (height // 8) * (width // 8), self.config.prototypes.count
        if self.causal and tokens < count:
            problem = f"has {tokens} tokens at {height}x{width}, fewer than {count} prototypes"
            raise InputError(video.frames[0], problem, "give fewer with --prototypes.count")

    def _fill(self, frames: np.ndarray) -> np.ndarray:
        """Repeats the last frame up to a whole chunk."""
        return np.concatenate([frames, np.repeat(frames[-1:], self.chunk - len(frames), 0)])

    def _references(self, start: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions i32[n, R] of each frame's references in memory + chunk, and bool[n], whether it has any."""
        found = [clips.reference_indices(t, self.config.data.offsets) for t in range(start, start + self.chunk)]
        own = [(t,) * len(self.config.data.offsets) for t in range(start, start + self.chunk)]
        positions = np.array([indices or self_ for indices, self_ in zip(found, own)], np.int32) - start + self.memory
        return positions, np.array([indices is not None for indices in found])


def fetched(
    dispatched: Iterator[tuple[T, dict[str, jax.Array]]],
) -> Iterator[tuple[T, dict[str, np.ndarray]]]:
    """What was dispatched, with its masks on the host. They are waited for when the next is dispatched: the device
    computes while the caller counts and writes. So two are in flight."""
    waiting: tuple[T, dict[str, jax.Array]] | None = None

    def on_host() -> tuple[T, dict[str, np.ndarray]]:
        what, masks = waiting
        return what, {row: np.asarray(mask) for row, mask in masks.items()}

    for item in dispatched:
        for mask in item[1].values():
            mask.copy_to_host_async()
        if waiting is not None:
            yield on_host()
        waiting = item
    if waiting is not None:
        yield on_host()


def placing(variables: dict[str, Any]) -> jax.sharding.Sharding | None:
    """The sharding of the weights, which is the same for all; None for arrays that are not on a device yet."""
    return getattr(jax.tree.leaves(variables)[0], "sharding", None)


def _segment(
    model: CFFM,
    config: Config,
    names: Sequence[str],
    rows: Sequence[str],
    variables: dict[str, Any],
    state: _State,
    frames: jax.Array,
    index: jax.Array,
    reference: jax.Array,
    has_reference: jax.Array,
    prototypes: jax.Array | None,
    *,
    output_size: tuple[int, int],
) -> tuple[_State, dict[str, jax.Array]]:
    """Masks of a chunk.

    Args:
      model: the module.
      config: for the causal prototypes.
      names: all of ``row_names``.
      rows: those of them whose masks are wanted.
      variables: the module's weights.
      state: what the chunk before left.
      frames: u8[n, H, W, 3].
      index: i32[n], their indices in the video.
      reference: i32[n, R], positions in memory + chunk.
      has_reference: bool[n]; frames without references get their own logits in place of CFFM's.
      prototypes: f32[P, C] of the whole video, or None.
      output_size: (H0, W0).

    Returns:
      The state for the next chunk and u8[n, H0, W0] for each row.
    """
    bound = model.bind(variables)
    features = bound.encode(normalise(frames))
    known = jnp.concatenate([state.memory, features.coarse])
    running = state.running
    contexts = {}
    if prototypes is not None:
        contexts[names[0]] = jnp.broadcast_to(prototypes, (len(frames), *prototypes.shape))
    if running is not None:
        running, contexts[names[len(contexts)]] = causal_prototypes(running, features.coarse, index, config.prototypes)
    mined = bound.mine_local(features.coarse, known[reference]) if bound.local_blocks else None
    logits = row_logits(bound, features.fine, features.coarse, mined, has_reference, contexts)
    masks = {row: segmentation_masks(logits[row], frames.shape[1:3], output_size) for row in rows}
    return _State(known[-len(state.memory) :], running), masks
