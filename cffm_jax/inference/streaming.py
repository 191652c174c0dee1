"""Streams: a frame in, its mask out, with a state of constant size that stays on the device.

Of a past frame only what later targets read is kept: keys and values of its pooled grids, for each mining block and
each reference that it may become. So every frame is encoded, normalised and pooled once (2,016 tokens at 480x864).

Dimension key: S streams, R references, M frames of memory (the largest offset), A heads, D channels of a head, gh gw
sides of a pooled grid, H0 W0 the original frames, H W the model's input, P prototypes, C channels.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cffm_jax.config import Config, DataConfig
from cffm_jax.data import clips, evaluation_frames
from cffm_jax.errors import InputError
from cffm_jax.inference.argmax import segmentation_masks
from cffm_jax.inference.rows import causal_prototypes, row_logits, row_names
from cffm_jax.models import cffa
from cffm_jax.models.cffm import CFFM, FrameFeatures
from cffm_jax.models.cfm import HEADS
from cffm_jax.models.kmeans import RunningClusters
from cffm_jax.models.normalise import normalise

_SECOND = 15
"""Frames of a second of VSPW: the papers' offsets 9, 6, 3 are 9/15, 6/15 and 3/15 s."""


class StreamState(NamedTuple):
    """What a stream remembers; arrays alone, so that it can be saved, moved and handed to an exported step.

    Attributes:
      clock: i32[], steps so far.
      ages: i32[S], frames of each stream since its start or its last reset.
      cells: the ring: by block, by reference, keys and values [M + 1, S, A, gh, gw, D]; step t is in place t mod M + 1.
      running: causal prototypes of each stream; () where there are none.
    """

    clock: jax.Array
    ages: jax.Array
    cells: tuple[Any, ...]
    running: tuple[RunningClusters, ...]


class StreamSegmenter:
    """Segments S streams of frames of one size, a frame of each in a step. Compiles once.

    ``state, masks = segmenter.step(variables, state, frames)`` takes frames u8[S, H, W, 3] as ``pipeline.fit_frame``
    makes them and gives masks u8[S, H0, W0]. The state that is given is consumed: its memory becomes the next state's,
    so keep a copy (``jax.device_get``) of one that is to be used again. ``segmenter.function`` is the same, not jitted,
    pure, and leaves it.
    """

    def __init__(
        self, model: CFFM, config: Config, size: tuple[int, int], streams: int = 1, *, apart: bool | None = None
    ):
        """A step of so many streams.

        Args:
          model: the module.
          config: ``data.offsets`` in frames of the streams.
          size: (H0, W0) of the frames.
          streams: S.
          apart: compute the streams of a step one after another, not as a batch. The default does on CPUs, where the
            maps of two frames of 480p no longer fit into the cache and a batch takes longer.

        Raises:
          InputError: the offsets are more or fewer than the model's references, or the frames have fewer tokens than
            prototypes, which are those of the frames so far.
        """
        if model.local_blocks and len(config.data.offsets) != len(model.sources):
            problem = f"has {len(config.data.offsets)} numbers, the model {len(model.sources)} references"
            raise InputError("--data.offsets", problem, "give one for each, the largest first")
        self.model, self.config, self.size, self.streams = model, config, size, streams
        self.input_size = evaluation_frames.evaluation_size(*size, config.data.scale)
        self.memory = max(config.data.offsets) if model.local_blocks and not model.static else 0
        tokens, count = self.input_size[0] // 8 * (self.input_size[1] // 8), config.prototypes.count
        if model.global_blocks and tokens < count:
            problem = f"{tokens} tokens at {size[0]}x{size[1]} are fewer than {count} prototypes"
            raise InputError("--prototypes.count", problem, "give fewer")
        apart = jax.default_backend() == "cpu" if apart is None else apart
        self.function = functools.partial(
            _step, model, config, row_names(model, "causal"), size, _how_far_back(config.data.offsets),
            _one_after_another if apart and streams > 1 else _together,
        )  # fmt: skip
        self.step = jax.jit(self.function, donate_argnums=1)

    def start(self) -> StreamState:
        """Nothing seen so far."""
        model, count = self.model, self.config.prototypes.count
        cells = ()
        if self.memory:
            windows = [cffa.padded_size(side // 8) // cffa.WINDOW for side in self.input_size]
            lead, channels = (self.memory + 1, self.streams, HEADS), model.width // HEADS
            grids = [(*lead, windows[0] * s.cells, windows[1] * s.cells, channels) for s in model.sources]
            # Keys and values; without attention values alone. No two are one buffer, as they are donated.
            each = range(1 + model.attention)
            cells = tuple(
                tuple(tuple(jnp.zeros(grid, model.dtype) for _ in each) for grid in grids)
                for _ in range(model.local_blocks)
            )
        running = ()
        if model.global_blocks:
            running = tuple(
                RunningClusters(jnp.zeros((count, model.width)), jnp.zeros(count), jnp.zeros((), jnp.int32))
                for _ in range(self.streams)
            )
        return StreamState(jnp.zeros((), jnp.int32), jnp.zeros(self.streams, jnp.int32), cells, running)


def reset(state: StreamState, streams: Sequence[int]) -> StreamState:
    """The state in which the streams of these numbers have seen nothing. IndexError if there is none of that number."""
    for number in streams:
        if not 0 <= number < len(state.ages):
            raise IndexError(f"stream {number} of {len(state.ages)}, which count from 0")
    return state._replace(ages=state.ages.at[jnp.array(streams, jnp.int32)].set(0))


def offsets_at(rate: float, references: int, seconds: Sequence[float] = ()) -> tuple[int, ...]:
    """How many frames before the target the references lie, for a stream of ``rate`` frames a second.

    The nearest whole numbers, at least 1.

    Args:
      rate: frames a second.
      references: R of the model.
      seconds: how long before the target, oldest first; () for the papers' 9/15, 6/15 and 3/15 s.

    Raises:
      InputError: there are more or fewer than references, or they are no such times.
    """
    found = seconds or [n / _SECOND for n in DataConfig.offsets]
    if len(found) != references:
        problem = f"{len(found)} are given" if seconds else f"the papers' are {len(found)}"
        raise InputError("--reference-seconds", problem, f"give {references}, oldest first")
    clips.require_seconds(found)
    return tuple(max(1, round(rate * each)) for each in found)


def stream(
    model: CFFM, variables: dict[str, Any], config: Config, frames: Iterable[np.ndarray], *, ahead: int = 0
) -> Iterator[np.ndarray]:
    """Masks u8[H0,W0] of frames u8[H0,W0,3] in RGB, one for each, in order.

    Args:
      model: the module; with global contexts its prototypes are causal.
      variables: its weights.
      config: of the model; ``data.scale`` says how frames are resized, ``data.offsets`` where the references lie.
      frames: of one size.
      ahead: frames that are taken before the mask of a frame is waited for. 0 answers every frame at once; 1 or 2 let
        reading, computing and what the caller does overlap.

    Raises:
      InputError: a frame is no u8[H,W,3] or differs in size from the first.
    """
    segmenter = state = None
    waiting: deque[jax.Array] = deque()
    variables = jax.device_put(variables)
    for number, frame in enumerate(frames):
        frame = np.asarray(frame)
        if frame.ndim != 3 or frame.shape[-1] != 3 or frame.dtype != np.uint8 or not frame.size:
            problem = f"is {frame.dtype}{list(frame.shape)}"
            raise InputError(f"frame {number}", problem, "give frames u8[H,W,3] in RGB")
        if segmenter is None:
            segmenter = _segmenter(model, config, frame.shape[:2])
            state = segmenter.start()
        elif frame.shape[:2] != segmenter.size:
            problem = f"is {frame.shape[1]}x{frame.shape[0]}, the first {segmenter.size[1]}x{segmenter.size[0]}"
            raise InputError(f"frame {number}", problem, "give a stream one size, or start another")
        state, masks = segmenter.step(variables, state, evaluation_frames.fit_frame(frame, config.data.scale)[None])
        waiting.append(masks)
        if len(waiting) > ahead:
            yield np.asarray(waiting.popleft())[0]
    while waiting:
        yield np.asarray(waiting.popleft())[0]


@functools.lru_cache(maxsize=8)
def _segmenter(model: CFFM, config: Config, size: tuple[int, int]) -> StreamSegmenter:
    """One for all streams of a kind: the second finds the step compiled."""
    return StreamSegmenter(model, config, size)


def _how_far_back(offsets: Sequence[int]) -> np.ndarray:
    """i32[M + 1, R]: by the frames that a stream has seen (M: or more), how many steps ago its references were. 0 is
    the target itself: it stands in for all where there are none, and early on for one that lies close."""
    ages = range(max(offsets) + 1)
    found = (clips.reference_indices(age, offsets) or (age,) * len(offsets) for age in ages)
    return np.array([[age - index for index in indices] for age, indices in zip(ages, found)], np.int32)


def _together(function: Callable[..., Any], streams: int, *arguments: Any) -> Any:
    return function(*arguments)


def _one_after_another(function: Callable[..., Any], streams: int, *arguments: Any) -> Any:
    """As a function of arrays [S * n, ...] has it, for one stream's [n, ...] at a time."""
    apart = jax.tree.map(lambda x: x.reshape(streams, -1, *x.shape[1:]), arguments)
    results = jax.lax.map(lambda each: function(*each), apart)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), results)


def _step(
    model: CFFM,
    config: Config,
    rows: tuple[str, ...],
    size: tuple[int, int],
    how_far_back: np.ndarray,
    each: Callable[..., Any],
    variables: dict[str, Any],
    state: StreamState,
    frames: jax.Array,
) -> tuple[StreamState, jax.Array]:
    """The next state and the masks u8[S, H0, W0] of frames u8[S, H, W, 3]; ``each``: how the streams are computed.

    ValueError for other frames.
    """
    streams = len(state.ages)
    expected = (streams, *evaluation_frames.evaluation_size(*size, config.data.scale), 3)
    if frames.shape != expected or frames.dtype != jnp.uint8:
        given = f"{frames.dtype}{list(frames.shape)}"
        raise ValueError(f"frames are {given}, not uint8{list(expected)}, as pipeline.fit_frame makes them")

    def encoded(frames: jax.Array) -> tuple[FrameFeatures, Any]:
        bound = model.bind(variables)
        features = bound.encode(normalise(frames))
        return features, bound.reference_cells(features.coarse) if model.local_blocks else ()

    def masked(features: FrameFeatures, cells: Any, referring: jax.Array, contexts: dict[str, jax.Array]) -> jax.Array:
        bound = model.bind(variables)
        mined = bound.mine_cells(features.coarse, cells) if model.local_blocks else None
        logits = row_logits(bound, features.fine, features.coarse, mined, referring, contexts)
        return segmentation_masks(logits[rows[0]], frames.shape[1:3], size)

    features, own = each(encoded, streams, frames)
    back = jnp.asarray(how_far_back)[jnp.minimum(state.ages, len(how_far_back) - 1)]  # [S, R]
    cells, read = state.cells, own
    if cells:
        # Written before it is read: a reference may be the target itself.
        cells = _write(cells, own, state.clock % len(how_far_back))
        read = _read(cells, (state.clock - back) % len(how_far_back))
    running, contexts = state.running, {}
    if running:
        pairs = [
            causal_prototypes(one, features.coarse[i : i + 1], state.ages[i : i + 1], config.prototypes)
            for i, one in enumerate(running)
        ]
        running = tuple(one for one, _ in pairs)
        contexts[rows[0]] = jnp.concatenate([centres for _, centres in pairs])
    masks = each(masked, streams, features, read, back.max(1) > 0, contexts)
    return StreamState(state.clock + 1, state.ages + 1, cells, running), masks


def _read(cells: Any, places: jax.Array) -> Any:
    """For each block and reference its cells [S * A, gh, gw, D], from the places i32[S, R] of the ring."""

    def of(ring: jax.Array, at: jax.Array) -> jax.Array:
        streams = ring.shape[1]
        flat = ring.reshape(-1, *ring.shape[2:])  # One axis to gather on: to ONNX no other form converts.
        taken = flat.at[at * streams + np.arange(streams, dtype=np.int32)].get(mode="promise_in_bounds")
        return taken.reshape(-1, *taken.shape[2:])

    return tuple(
        tuple(tuple(of(ring, places[:, r]) for ring in each) for r, each in enumerate(block)) for block in cells
    )


def _write(cells: Any, own: Any, place: jax.Array) -> Any:
    """The ring with this step's cells [S * A, gh, gw, D] in their place."""

    def put(ring: jax.Array, new: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_index_in_dim(ring, new.reshape(ring.shape[1:]), place, 0)

    return jax.tree.map(put, cells, own)
