"""Streams: a frame in, its mask out, with a state of constant size that stays on the device.

Of a past frame only what later targets read is kept (2,016 pooled tokens of CFFM at 480x864), so
every frame is encoded, normalised and pooled once.

Dimension key: S streams, R references, H0 W0 the original frames, H W the model's input.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cffm_jax.config import Config, DataConfig
from cffm_jax.config.checks import require_offsets
from cffm_jax.data import clips, evaluation_frames
from cffm_jax.errors import InputError
from cffm_jax.inference.engine import Engine, Segmented, State, is_finite, not_finite
from cffm_jax.inference.prediction import Prediction
from cffm_jax.inference.prepared import Prepared
from cffm_jax.inference.step import Step, require_unused
from cffm_jax.inference.tiles import Tiling, input_multiple, tiles_of
from cffm_jax.inference.video_prototypes import finite_leaves
from cffm_jax.models.methods.method import Method
from cffm_jax.runtime.compiling import compiling
from cffm_jax.runtime.devices import planned_bytes

_SECOND = 15
"""Frames of a second of VSPW: the papers' offsets 9, 6, 3 are 9/15, 6/15 and 3/15 s."""


class Footprint(NamedTuple):
    """What a step computes, and what memory that takes.

    Attributes:
      input_size: (H, W) of the frames, resized for the network.
      tile_size: (h, w) that it sees at a time.
      tiles: of a frame.
      overlap: pixels that tiles share at least; 0 without any.
      memory: bytes, as the compiler plans them: weights, state, frames, results, and all that is
        computed in between; None where it does not tell.
    """

    input_size: tuple[int, int]
    tile_size: tuple[int, int]
    tiles: int
    overlap: int
    memory: int | None

    def __str__(self) -> str:
        (height, width), count = self.tile_size, f"{self.tiles} tiles" if self.tiles > 1 else "whole frames"
        memory = "not known" if self.memory is None else f"{self.memory / 1e9:.2f} GB"
        return f"memory: a step takes {memory}, weights included ({count}, height x width {height}x{width})"


class StreamSegmenter:
    """Segments S streams of frames of one size, a frame of each in a step. Compiles once.

    ``state, masks = segmenter.step(variables, state, frames)`` takes frames u8[S, H, W, 3] as
    ``pipeline.fit_frame`` makes them and gives masks u8[S, H0, W0]. It consumes the state given:
    its memory becomes the next one's, so keep a copy (``jax.device_get``) of one to be used again,
    which is a ValueError otherwise.
    ``segmenter.step.prepare(variables)`` gives weights for it that take less work in every step.
    ``segmenter.function`` is the same, not jitted, pure, and leaves it. ``segmenter.segment`` takes
    the same and gives, beside the next state, a ``Segmented`` of the scores and logits asked for.
    """

    def __init__(
        self,
        model: Method,
        config: Config,
        size: tuple[int, int],
        streams: int = 1,
        *,
        apart: bool | None = None,
        scores: bool = False,
        logits: bool = False,
        tiles: Tiling | None = None,
        given: bool = False,
    ):
        """A step of so many streams.

        Args:
          model: the method.
          config: ``data.offsets`` in frames of the streams.
          size: (H0, W0) of the frames.
          streams: S.
          apart: compute the streams one after another, not as a batch. The default on CPUs, where
            the maps of two frames of 480p do not fit into the cache and a batch takes longer.
          scores: whether ``segment`` gives the probabilities of the masks' classes.
          logits: whether it gives the logits.
          tiles: how frames, once resized, are cut; None: not at all.
          given: whether ``function`` is given prototypes, in place of those of the frames so far.

        Raises:
          InputError: the offsets are no such numbers, or not as many as the references, or the
            frames or tiles are too small for the method's state: they have fewer tokens than
            prototypes, which are those of the frames so far.
        """
        offsets = config.data.offsets
        if model.reference_names:
            require_offsets(offsets, len(model.reference_names))
        self.model, self.config, self.size, self.streams = model, config, size, streams
        self._engine = Engine(
            model,
            model.rows("video" if given else "causal")[:1],
            offsets,
            memory=max(offsets, default=0),
            causal=config.prototypes if "causal" in model.contexts("causal") and not given else None,
            apart=jax.default_backend() == "cpu" if apart is None else apart,
            scores=scores,
            logits=logits,
            tiles=tiles,
        )
        multiple = self._engine.input_multiple
        self.input_size = evaluation_frames.evaluation_size(*size, config.data.frame_size, multiple)
        try:
            # A state's; its faults show here, before the first frame, with nothing allocated.
            self._shapes = jax.eval_shape(self.start)
        except InputError as error:
            if tiles_of(tiles, self.input_size).count == 1:
                raise
            raise InputError("--tile-size", error.problem, "give a larger one") from error
        shape = (streams, *self.input_size, len(model.channels))
        self._frames = jax.ShapeDtypeStruct(shape, model.channels.dtype)
        self.step = Step(self.function, self._shapes, self._frames)
        self.segment = Step(self._segment, self._shapes, self._frames)

    def start(self) -> State:
        """Nothing seen so far."""
        return self._engine.start(self.input_size, self.streams)

    def lower(self, variables: dict[str, Any] | Prepared) -> jax.stages.Lowered:
        """The program of ``segment``, uncompiled, for weights or their shapes; where these are
        placed, it runs."""
        return self.segment.lower(variables, self._shapes, self._frames)

    def footprint(self, variables: dict[str, Any] | Prepared) -> Footprint:
        """What ``segment`` takes. Compiles it, and says so; its first call then does not."""
        with compiling("the step of a stream", self.config.model.name, self.streams, *self.input_size, self.size):
            program = self.lower(variables).compile()
        tiling, tiles = self._engine.tiles, tiles_of(self._engine.tiles, self.input_size)
        overlap = tiling.overlap if tiling and tiles.count > 1 else 0
        return Footprint(self.input_size, tiles.size, tiles.count, overlap, planned_bytes(program))

    def function(
        self, variables: dict[str, Any], state: State, frames: jax.Array, prototypes: jax.Array | None = None
    ) -> tuple[State, jax.Array]:
        """The next state and masks u8[S, H0, W0]; ValueError unless frames are u8[S, H, W, 3], or
        f32[S, H, W, K] of other channels. ``prototypes``: f32[S, P, C], where they are given."""
        state, segmented = self._segment(variables, state, frames, prototypes)
        (mask,) = segmented.masks.values()
        return state, mask

    def _segment(
        self, variables: dict[str, Any], state: State, frames: jax.Array, prototypes: jax.Array | None = None
    ) -> tuple[State, Segmented]:
        shapes, own = (jax.tree.map(lambda leaf: leaf.shape, each) for each in (state, self._shapes))
        if shapes != own:
            raise ValueError(
                f"the state is of other streams, frames or settings than this segmenter's {self.streams} stream(s) of "
                f"{self.size[0]}x{self.size[1]}; begin anew with start()"
            )
        expected = self._frames
        if frames.shape != expected.shape or frames.dtype != expected.dtype:
            given, wanted = (f"{each.dtype}{list(each.shape)}" for each in (frames, expected))
            raise ValueError(f"frames are {given}, not {wanted}, as pipeline.fit_frame makes them")
        state, segmented = self._engine.segment(variables, state, frames[:, None], prototypes, size=self.size)
        return state, jax.tree.map(lambda x: x[:, 0], segmented)


def reset(state: State, streams: Sequence[int]) -> State:
    """The state with these streams as if they had seen nothing; IndexError for unknown numbers,
    ValueError for a state that a step has used up."""
    require_unused(state)
    for number in streams:
        if not 0 <= number < len(state.ages):
            raise IndexError(f"stream {number} of {len(state.ages)}, which count from 0")
    return state._replace(ages=state.ages.at[jnp.array(streams, jnp.int32)].set(0))


def stream_settings(
    config: Config,
    *,
    every: int = 1,
    rate: float | Fraction = 0,
    seconds: Sequence[float] = (),
    frame_size: tuple[int, ...] | None = None,
) -> Config:
    """The settings of the weights' run, for a stream of ``every`` so many-th of the frames at hand.

    References lie as far back as in training, or, with a ``rate`` (these frames a second), as
    ``offsets_at`` says, with its errors. Frames are resized to fit ``frame_size``, (h, w), if it
    is given.
    """
    data = config.data
    if rate:
        offsets = offsets_at(float(rate / every), len(data.offsets), seconds)
    else:
        offsets = tuple(max(1, round(offset / every)) for offset in data.offsets)
    h, w = frame_size or data.frame_size
    data = dataclasses.replace(data, offsets=offsets, frame_size=(h, w))
    return dataclasses.replace(config, data=data)


def offsets_at(rate: float, references: int, seconds: Sequence[float] = ()) -> tuple[int, ...]:
    """Finds how many frames before the target the references lie, in whole numbers of at least 1.

    Args:
      rate: frames a second of the stream.
      references: R of the model.
      seconds: how long before the target, oldest first; () for the papers' 9/15, 6/15 and 3/15 s.

    Raises:
      InputError: there are more or fewer than references, or they are no such times.
    """
    times = seconds or [n / _SECOND for n in DataConfig.offsets]
    if len(times) != references:
        problem = f"{len(times)} are given" if seconds else f"the papers' are {len(times)}"
        raise InputError("--reference-seconds", problem, f"give {references}, oldest first")
    clips.require_seconds(times)
    return tuple(max(1, round(rate * each)) for each in times)


def stream(
    model: Method, variables: dict[str, Any], config: Config, frames: Iterable[np.ndarray], *, ahead: int = 0
) -> Iterator[np.ndarray]:
    """Masks u8[H0,W0] of frames u8[H0,W0,3] in RGB, or f32[H0,W0,K] of other channels, one for
    each, in order; see ``predictions``."""
    for prediction in predictions(model, variables, config, frames, ahead=ahead):
        yield prediction.mask


def predictions(
    model: Method,
    variables: dict[str, Any],
    config: Config,
    frames: Iterable[np.ndarray],
    *,
    ahead: int = 0,
    scores: bool = False,
    logits: bool = False,
    tiles: Tiling | None = None,
    on_footprint: Callable[[Footprint], None] | None = None,
) -> Iterator[Prediction]:
    """What the network says of frames u8[H0,W0,3] in RGB, or f32[H0,W0,K] of other
    channels, one for each, in order.

    Args:
      model: the module; with global contexts its prototypes are causal.
      variables: its weights.
      config: ``data.frame_size`` says how frames are resized, ``data.offsets`` where
        references lie.
      frames: of one size.
      ahead: frames that are taken before the mask of a frame is waited for. 0 answers every frame
        at once; 1 or 2 let reading, computing and what the caller does overlap.
      scores: whether the probabilities are wanted.
      logits: whether the logits are.
      tiles: how frames are cut, once resized; None: not at all.
      on_footprint: called before the first frame is segmented, with what that takes.

    Raises:
      InputError: a frame is no such array or differs in size from the first; where prototypes are
        causal, its features or the weights are not finite.
    """
    segmenter, state = None, None
    causal = "causal" in model.contexts("causal")
    if causal:
        deque(finite_leaves(variables), maxlen=0)
    waiting: deque[tuple[int, Segmented, jax.Array | None]] = deque()
    weights: dict[str, Any] | Prepared = jax.device_put(variables)
    for number, frame in enumerate(frames):
        frame = evaluation_frames.checked_frame(number, frame, model.channels)
        if segmenter is None:
            segmenter = _segmenter(model, config, frame.shape[:2], scores, logits, tiles)
            weights = segmenter.segment.suited(weights)
            if on_footprint:
                on_footprint(segmenter.footprint(weights))
            state = segmenter.start()
        elif frame.shape[:2] != segmenter.size:
            problem = f"is {frame.shape[1]}x{frame.shape[0]}, the first {segmenter.size[1]}x{segmenter.size[0]}"
            raise InputError(f"frame {number}", problem, "give a stream one size, or start another")
        fitted = evaluation_frames.fit_frame(frame, config.data.frame_size, input_multiple(model, tiles))[None]
        state, segmented = segmenter.segment(weights, state, fitted)
        finite = is_finite(state.recurrent) if causal else None
        waiting.append((number, segmented, finite))
        if len(waiting) > ahead:
            yield _on_host(*waiting.popleft())
    while waiting:
        yield _on_host(*waiting.popleft())


def _on_host(number: int, segmented: Segmented, finite: jax.Array | None) -> Prediction:
    """Of the first and only stream. InputError unless its causal prototypes are finite."""
    if finite is not None and not finite:
        raise not_finite(f"frame {number}")
    (masks,), scores, logits = segmented.masks.values(), segmented.scores, segmented.logits
    first = [None if x is None else np.asarray(x)[0] for x in (scores, logits)]
    return Prediction(np.asarray(masks)[0], *first)


@functools.lru_cache(maxsize=32)
def _segmenter(
    model: Method, config: Config, size: tuple[int, int], scores: bool, logits: bool, tiles: Tiling | None
) -> StreamSegmenter:
    """One for all streams of a kind: the second finds the step compiled."""
    return StreamSegmenter(model, config, size, scores=scores, logits=logits, tiles=tiles)
