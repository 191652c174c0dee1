"""The engine of inference: a step takes n frames of each of S streams and a state, and gives masks
and the next state.

A whole video is a stream of chunks of n frames, a camera one with n = 1, a clip with one labelled
frame a stream that ends with its first step; an export is the step itself.

What later targets read of a frame (``Method.remember``) lies in a ring of L places. The frame that
a stream sees at time t is in place t mod L; it is written before it is read, since a reference may
be the target itself.

Dimension key: S streams, n frames of a step, m targets of a step (n, or 1: the last), R references,
L places of the ring, H W the model's input, H0 W0 the original frames, P prototypes, C channels,
T tiles of a frame, K channels of a frame (3; then frames are bytes).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32, Shaped, UInt8

from cffm_jax.config import PrototypeConfig
from cffm_jax.errors import InputError
from cffm_jax.inference import ring as ring_buffer
from cffm_jax.inference.argmax import segmentation_masks, winner_scores
from cffm_jax.inference.tiles import Tiles, Tiling, input_multiple, tiles_of
from cffm_jax.models.methods.method import Method, Tree
from cffm_jax.models.normalise import normalise


class State(NamedTuple):
    """State of streams: arrays alone, so that it can be saved, moved and handed to an exported
    step.

    Attributes:
      clock: frames of each stream so far.
      ages: frames of each stream since its start or its last reset.
      ring: for each reference (or once, for all) the arrays of ``Method.remember`` [L, S, ...]; ()
        without references.
      recurrent: the arrays of ``Method.start`` [S, ...]; () for a method without any.

    Of frames in tiles ring and recurrent have T * S streams, those of the first tile first.
    """

    clock: Int32[Array, ""]
    ages: Int32[Array, " S"]
    ring: tuple[Tree, ...]
    recurrent: Tree


class Segmented(NamedTuple):
    """What a step gives of its targets.

    Attributes:
      masks: by row.
      scores: probability of each pixel's class in the first row's mask, see ``winner_scores``.
      logits: those of the first row, at their own stride.
    """

    masks: dict[str, UInt8[Array, "S m H0 W0"]]
    scores: Float32[Array, "S m H0 W0"] | None = None
    logits: Float32[Array, "S m h w K"] | None = None


@dataclasses.dataclass(frozen=True)
class Engine:
    """What a step computes. Engines that are equal, called with frames of equal sizes, share one
    compiled program.

    Attributes:
      model: the method.
      rows: of ``Method.rows``, the logits whose masks are wanted.
      offsets: how many frames before the target the references lie, oldest first.
      frames: n.
      targets: which frames of a step are segmented.
      memory: frames before the step that references may lie in.
      causal: settings of the recurrent state, which is kept, and its contexts are used; None: it is
        not.
      apart: compute the streams of a step one after another, not as a batch.
      scores: whether ``segment`` gives the first row's scores.
      logits: whether it gives its logits.
      tiles: how frames are cut. Each tile is a stream with a memory of its own, which sees one
        place of the frames; they are computed one after another, so that what is computed in
        between takes the memory of one. Frames of one tile are segmented whole, by the same program
        as without.
    """

    model: Method
    rows: tuple[str, ...]
    offsets: tuple[int, ...]
    frames: int = 1
    targets: Literal["all", "last"] = "all"
    memory: int = 0
    causal: PrototypeConfig | None = None
    apart: bool = False
    scores: bool = False
    logits: bool = False
    tiles: Tiling | None = None

    @property
    def input_multiple(self) -> int:
        """Of which the sides of frames are multiples."""
        return input_multiple(self.model, self.tiles)

    def start(self, size: tuple[int, int], streams: int = 1) -> State:
        """The state of streams that have seen nothing, all zeros, for inputs of size (H, W).

        Raises:
          InputError: frames, or tiles, of that size are too small for the method.
        """
        tiles = tiles_of(self.tiles, size)
        size, parts = tiles.size, tiles.count * streams
        places = -(-(self.memory + self.frames) // self.frames) * self.frames
        # No two are one buffer, as they are donated.
        ring = jax.tree.map(lambda x: jnp.zeros((places, parts, *x.shape[1:]), x.dtype), _remembered(self.model, size))
        recurrent = self.model.start(size, self.causal) if self.causal else ()
        recurrent = jax.tree.map(lambda x: jnp.zeros((parts, *x.shape), x.dtype), recurrent)
        return State(jnp.zeros((), jnp.int32), jnp.zeros(streams, jnp.int32), ring, recurrent)

    def segment(
        self,
        variables: dict[str, Any],
        state: State,
        frames: Shaped[Array, "S n H W K"],
        prototypes: Float[Array, "S P C"] | None = None,
        *,
        size: tuple[int, int],
    ) -> tuple[State, Segmented]:
        """The next state and what the frames give.

        Args:
          variables: the model's weights.
          state: of the streams.
          frames: of each stream, oldest first.
          prototypes: of each stream's whole video; None where they are not given.
          size: (H0, W0).
        """
        streams, _, *shape = frames.shape
        input_size = (shape[0], shape[1])
        tiles = tiles_of(self.tiles, input_size)

        def whole(logits: dict[str, jax.Array]) -> Segmented:
            first, sizes = logits[self.rows[0]], (input_size, size)
            return Segmented(
                {row: segmentation_masks(logits[row], *sizes) for row in self.rows},
                winner_scores(first, *sizes) if self.scores else None,
                first if self.logits else None,
            )

        if tiles.count == 1:
            return self._step(variables, state, frames, prototypes, whole)
        state, logits = self._in_tiles(tiles, variables, state, frames, prototypes)
        targets = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), logits)
        segmented = self._each(streams)(whole, streams, targets)
        return state, jax.tree.map(lambda x: x.reshape(streams, -1, *x.shape[1:]), segmented)

    def _in_tiles(
        self, tiles: Tiles, variables: dict[str, Any], state: State, frames: jax.Array, prototypes: jax.Array | None
    ) -> tuple[State, dict[str, jax.Array]]:
        """The next state and the logits f32[S, m, H/s, W/s, K] of each row, blended of the
        tiles'."""
        streams, n, h, w = frames.shape[:4]

        def segment(so_far: tuple[Any, Any, dict[str, jax.Array]], number: jax.Array) -> tuple[Any, None]:
            ring, recurrent, blends = so_far
            at = number * streams
            its = State(
                state.clock,
                state.ages,
                jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, at, streams, 1), ring),
                jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, at, streams), recurrent),
            )
            its, logits = self._step(variables, its, tiles.cut(frames, number), prototypes, lambda logits: logits)
            put = jax.lax.dynamic_update_slice_in_dim
            ring = jax.tree.map(lambda x, new: put(x, new, at, 1), ring, its.ring)
            recurrent = jax.tree.map(lambda x, new: put(x, new, at, 0), recurrent, its.recurrent)
            return (ring, recurrent, {row: tiles.add(blends[row], logits[row], number) for row in self.rows}), None

        # Blended as they come: there is never more than one tile's logits beside the frame's.
        shape = (
            streams,
            1 if self.targets == "last" else n,
            h // self.model.stride,
            w // self.model.stride,
            self.model.num_classes,
        )
        blends = {row: jnp.zeros(shape, jnp.float32) for row in self.rows}
        start = (state.ring, state.recurrent, blends)
        (ring, recurrent, blends), _ = jax.lax.scan(segment, start, jnp.arange(tiles.count, dtype=jnp.int32))
        return State(state.clock + n, state.ages + n, ring, recurrent), blends

    def _each(self, streams: int) -> Callable[..., Any]:
        return _one_after_another if self.apart and streams > 1 else _together

    def _step(
        self,
        variables: dict[str, Any],
        state: State,
        frames: jax.Array,
        prototypes: jax.Array | None,
        finish: Callable[[dict[str, jax.Array]], Any],
    ) -> tuple[State, Any]:
        """The next state, and what ``finish`` makes of targets' logits [N, ...]: its arrays [S, m,
        ...]. The arguments are those of ``segment``."""
        streams, n, *shape = frames.shape
        each = self._each(streams)
        first = n - 1 if self.targets == "last" else 0

        def encoded(frames: jax.Array) -> tuple[Tree, tuple[Tree, ...]]:
            bound = self.model.bind(variables)
            features = bound.encode(normalise(frames, channels=self.model.channels))
            return features, bound.remember(features) if self.model.reference_names else ()

        def segmented(features: Tree, memory: Any, referring: jax.Array, contexts: dict[str, Tree]) -> Any:
            return finish(self.model.bind(variables).segment(features, memory, referring, contexts))

        features, remembered = each(encoded, streams, frames.reshape(streams * n, *shape))
        table = ring_buffer.how_far_back(self.offsets if self.model.reference_names else ())
        begin = 0 if self.causal and self.model.ADVANCE_READS else first
        ages = state.ages[:, None] + np.arange(begin, n, dtype=np.int32)  # [S, n or m]
        back = jnp.asarray(table)[jnp.clip(ages, 0, len(table) - 1)]  # [S, n or m, R]
        ring, memory = state.ring, ()
        if ring:
            ring = ring_buffer.write(ring, remembered, state.clock)
            times = state.clock + np.arange(begin, n, dtype=np.int32)[:, None] - back
            memory = ring_buffer.read(ring, times, self.model.reference_names)
        recurrent, contexts = state.recurrent, {}
        if self.causal:
            read = memory if self.model.ADVANCE_READS else ()
            recurrent, causal = self._advanced(variables, recurrent, features, read, state.ages, n)
            contexts["causal"] = jax.tree.map(lambda x: x[:, first:].reshape(-1, *x.shape[2:]), causal)
        if begin < first:
            back, memory = back[:, first:], jax.tree.map(lambda x: _last(x, streams, first), memory)
        if prototypes is not None:
            given = jnp.broadcast_to(prototypes[:, None], (streams, n - first, *prototypes.shape[1:]))
            contexts["video"] = given.reshape(-1, *prototypes.shape[1:])
        targets = jax.tree.map(lambda x: _last(x, streams, first), features)
        referring = (back.max(-1, initial=0) > 0).reshape(-1)
        results = each(segmented, streams, targets, memory, referring, contexts)
        results = jax.tree.map(lambda x: x.reshape(streams, n - first, *x.shape[1:]), results)
        return State(state.clock + n, state.ages + n, ring, recurrent), results

    def _advanced(
        self, variables: dict[str, Any], recurrent: Tree, features: Tree, memory: Any, ages: jax.Array, n: int
    ) -> tuple[Tree, Tree]:
        """The recurrent state after n frames of each stream, and the frames' contexts [S, n,
        ...]."""
        bound, settings = self.model.bind(variables), self.causal
        assert settings
        in_time = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, n, *x.shape[1:]), 1, 0), (features, memory))

        def advance(recurrent: Tree, item: tuple[jax.Array, tuple[Tree, Any]]) -> tuple[Tree, Tree]:
            i, (frames, memory) = item
            return bound.advance(recurrent, frames, ages + i, settings, memory)

        recurrent, contexts = jax.lax.scan(advance, recurrent, (jnp.arange(n, dtype=jnp.int32), in_time))
        return recurrent, jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), contexts)


@functools.partial(jax.jit, static_argnums=0, static_argnames="size", donate_argnums=2)
def jitted_step(
    engine: Engine,
    variables: dict[str, Any],
    state: State,
    frames: Shaped[Array, "S n H W K"],
    prototypes: Float[Array, "S P C"] | None = None,
    *,
    size: tuple[int, int],
) -> tuple[State, dict[str, UInt8[Array, "S _ {size[0]} {size[1]}"]]]:
    """The next state and the masks u8[S, m, H0, W0] of each row: ``Engine.segment``, compiled. The
    state that is given is consumed: its memory becomes the next state's."""
    state, segmented = engine.segment(variables, state, frames, prototypes, size=size)
    return state, segmented.masks


@jax.jit
def is_finite(recurrent: Tree) -> jax.Array:
    """bool[]: whether all that a recurrent state holds, such as causal prototypes, is finite."""
    return jnp.all(jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(recurrent)]))


def not_finite(where: object, others: int = 0) -> InputError:
    """The error of a frame whose features are not finite, or those of one of the ``others`` that
    follow it."""
    more = f", or those of the {others} frames after it" if others else ""
    remedy = "check the frame and the weights: they may be damaged"
    return InputError(where, f"its features{more} are not finite", remedy)


@functools.lru_cache(maxsize=64)
def _remembered(model: Method, size: tuple[int, int]) -> tuple[Tree, ...]:
    """Shapes of what is remembered of one frame; an encoder of few blocks has the same, and is
    traced faster."""
    if not model.reference_names:
        return ()
    small = model.templated

    def remember(frame: jax.Array) -> tuple[Tree, ...]:
        key = jax.random.key(0)
        return small.init_with_output(key, frame, method=lambda model, x: model.remember(model.encode(x)))[0]

    return jax.eval_shape(remember, jax.ShapeDtypeStruct((1, *size, len(model.channels)), jnp.float32))


def _last(x: jax.Array, streams: int, first: int) -> jax.Array:
    """Of [S * n, ...] what comes from the ``first`` of each stream's frames on."""
    return x.reshape(streams, -1, *x.shape[1:])[:, first:].reshape(-1, *x.shape[1:])


def _together(function: Callable[..., Any], streams: int, *arguments: Any) -> Any:
    return function(*arguments)


def _one_after_another(function: Callable[..., Any], streams: int, *arguments: Any) -> Any:
    """Calls a function of arrays [S * n, ...] with one stream's [n, ...] at a time; the same
    result."""
    apart = jax.tree.map(lambda x: x.reshape(streams, -1, *x.shape[1:]), arguments)
    results = jax.lax.map(lambda each: function(*each), apart)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), results)
