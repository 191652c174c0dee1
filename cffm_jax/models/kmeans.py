"""Prototypes by k-means over a video's frame features (CFFM++ section 4.1), and causal for streams.

Dimension key: N tokens, C channels, k centres; m blocks of n tokens; S tokens to draw starts from.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int32, PRNGKeyArray

from cffm_jax.config import PrototypeConfig
from cffm_jax.models.by_platform import by_platform
from cffm_jax.models.kmeans_starts import EXACT, STARTS, products

CHUNK = 65536
"""Tokens of a block. Ten frames of 480x864 are one: one product is faster than several."""

Tokens = Float[Array | np.ndarray, "n c"]
Valid = Bool[Array | np.ndarray, " n"]
Centres = Float[Array | np.ndarray, "{k} c"]


class Clusters(NamedTuple):
    """Result of k-means.

    Attributes:
      centres: f32[k, C].
      assignment: i32[N], the nearest of these centres (the first of equals); -1 of an invalid
        token.
      inertia: f32[], sum of valid tokens' squared distances to centres; not finite if one is not.
      iterations: i32[], how often the centres were moved.
      counts: f32[k], tokens of each cluster; 0 only if the last move emptied it or too few differ.
    """

    centres: Float32[Array, "k c"]
    assignment: Int32[Array, " n"]
    inertia: Float32[Array, ""]
    iterations: Int32[Array, ""]
    counts: Float32[Array, " k"]


class RunningClusters(NamedTuple):
    """Prototypes so far: f32[k, C] centres, f32[k] weights in tokens, i32[] number of frames."""

    centres: Float32[Array, "k c"]
    counts: Float32[Array, " k"]
    frames: Int32[Array, ""]


def kmeans(
    key: PRNGKeyArray,
    tokens: Tokens,
    k: int = 100,
    max_iterations: int = 10,
    *,
    valid: Valid | None = None,
    start: str | Centres = "k-means++",
    chunk: int | None = None,
) -> tuple[Float32[Array, "{k} c"], Int32[Array, " n"]]:
    """The centres and the assignment of ``cluster``."""
    return cluster(key, tokens, k, max_iterations, valid=valid, start=start, chunk=chunk)[:2]


def cluster(
    key: PRNGKeyArray | None,
    tokens: Tokens,
    k: int = 100,
    max_iterations: int = 10,
    *,
    valid: Valid | None = None,
    start: str | Centres = "k-means++",
    chunk: int | None = None,
) -> Clusters:
    """Euclidean k-means (Lloyd) in float32, one program that may be part of another and vmapped.

    Stops early once no token changes its cluster. In every move the j-th empty cluster starts anew
    at the token that is j-th farthest from its own centre.

    Args:
      key: of the start; unused if ``start`` is an array.
      tokens: of any float type. Ones that are not finite show in the inertia: the caller checks it.
      k: number of centres.
      max_iterations: most moves of the centres.
      valid: tokens where it is False have no influence, NaN and place included. None: all are
        valid. With fewer than k valid tokens some centres coincide and have no tokens.
      start: "k-means++": greedy (Arthur and Vassilvitskii 2007), 6 + 3 ln k trials a centre, on a
        sample that is spread evenly over the valid tokens; "random": k different tokens, as in the
        release; or the centres.
      chunk: tokens whose distances are held at once; None: 65536.

    Raises:
      ValueError: N < k, shapes that do not fit, or an unknown start.
    """
    if tokens.ndim != 2 or not 1 <= k <= len(tokens):
        raise ValueError(f"k-means needs tokens [N, C] with N >= k >= 1, got {tokens.shape} and k = {k}")
    if valid is not None and valid.shape != tokens.shape[:1]:
        raise ValueError(f"valid must have the shape {tokens.shape[:1]}, got {valid.shape}")
    given = None if isinstance(start, str) else jnp.asarray(start, jnp.float32)
    if given is None and start not in STARTS:
        raise ValueError(f"start must be one of {', '.join(STARTS)} or an array, not {start!r}")
    if given is not None and given.shape != (k, tokens.shape[1]):
        raise ValueError(f"start must have the shape {(k, tokens.shape[1])}, got {given.shape}")
    rule = start if given is None else ""
    return _cluster(key, tokens, valid, given, max_iterations, k=k, rule=rule, chunk=chunk or CHUNK)


def start_running(
    key: PRNGKeyArray,
    tokens: Tokens,
    k: int = 100,
    max_iterations: int = 10,
    *,
    start: str | Centres = "k-means++",
) -> RunningClusters:
    """Prototypes after a stream's first frame by ``cluster``: arguments and errors as there."""
    clusters = cluster(key, tokens, k, max_iterations, start=start)
    return RunningClusters(clusters.centres, clusters.counts, jnp.int32(1))


@jax.jit
def update_running(
    state: RunningClusters,
    tokens: Float[Array, "n c"],
    *,
    memory: float | Float[Array, ""] = PrototypeConfig.memory,
) -> RunningClusters:
    """Adds a frame by mini-batch k-means (Sculley 2010) that forgets, which neither paper has.

    All counts fade by memory / (memory + 1), so the past weighs at most as much as ``memory``
    frames. Each centre moves to the mean of itself, weighing its count, and the new tokens nearest
    to it, weighing one each; their number is added to its count. A centre whose count is below one
    then starts anew with 1: the j-th of them at the new token j-th farthest from its own centre.

    Args:
      state: after the frames so far.
      tokens: of the new frame.
      memory: in frames; inf never forgets, 0 forgets all but where to look for new clusters.
    """
    new = _tokens(tokens, None, CHUNK)
    old = state.centres - new.mean
    step = _assign(new, old, CHUNK)
    kept = state.counts / (1 + 1 / jnp.float32(memory))
    counts = kept + step.counts
    means = (kept[:, None] * old + step.sums) / jnp.maximum(counts, 1)[:, None]
    lost = counts < 1
    centres = _start_anew(new, step.distances, lost, jnp.where(lost[:, None], old, means))
    return RunningClusters(centres + new.mean, jnp.maximum(counts, 1), state.frames + 1)


# --- Lloyd's iteration ----------------------------------------------------------------------------


class _Tokens(NamedTuple):
    """Tokens [N, C]; bool[N] valid; f32[C] mean of the valid ones, taken off before every product
    as it would cost digits (off a single block for good); f32[N] squared norms without it."""

    rows: jax.Array
    valid: jax.Array
    mean: jax.Array
    norms: jax.Array
    centred: bool

    def block(self, begin: jax.Array, size: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """f32[n, C] rows without the mean, and their bool[n] valid and f32[n] norms."""
        cut = functools.partial(jax.lax.dynamic_slice_in_dim, start_index=begin, slice_size=size)
        rows, valid, norms = (cut(x) for x in (self.rows, self.valid, self.norms))
        return rows if self.centred else _centred(rows, valid, self.mean), valid, norms

    def take(self, index: jax.Array) -> jax.Array:
        """f32[..., C]: some rows without the mean."""
        return self.rows[index].astype(jnp.float32) - (0.0 if self.centred else self.mean)


class _Step(NamedTuple):
    """Tokens by nearest centre: i32[N] which, f32[N] squared distance (both -1: not valid); f32[k,
    C] sum and f32[k] number of each centre's tokens."""

    assignment: jax.Array
    distances: jax.Array
    sums: jax.Array
    counts: jax.Array


def _tokens(rows: jax.Array, valid: jax.Array | None, chunk: int) -> _Tokens:
    valid = jnp.ones(len(rows), bool) if valid is None else valid
    mean = jnp.sum(_centred(rows, valid, jnp.zeros(rows.shape[1])), 0) / jnp.maximum(jnp.sum(valid), 1)
    centred = _centred(rows, valid, mean)
    norms, single = jnp.sum(jnp.square(centred), 1), len(rows) <= chunk
    return _Tokens(centred if single else rows, valid, mean, norms, single)


def _centred(rows: jax.Array, valid: jax.Array, mean: jax.Array) -> jax.Array:
    return jnp.where(valid[:, None], rows.astype(jnp.float32) - mean, 0.0)


def _least(scores: jax.Array, offsets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Minimum over the rows of f32[k, n] + f32[k, 1], and its row."""
    return jnp.min(scores + offsets, 0), jnp.argmin(scores + offsets, 0).astype(jnp.int32)


def _least_by_loop(scores: jax.Array, offsets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The same row by row: on CPUs XLA's arg-min is not vectorised and eight times as slow."""

    def compare(best, row):
        score = row[0] + row[1]
        nearer = score < best[0]
        return (jnp.where(nearer, score, best[0]), jnp.where(nearer, row[2], best[1])), None

    first = scores[0] + offsets[0]  # Not infinity: what is no number stays none.
    rows = (scores, offsets, jnp.arange(len(scores)))
    return jax.lax.scan(compare, (first, jnp.zeros_like(first, jnp.int32)), rows, unroll=min(8, len(scores)))[0]


def _sums(x: jax.Array, assignment: jax.Array, k: int) -> jax.Array:
    """Sums rows f32[n, C] by i32[n] in 0..k (k: none), as a product: that needs no atomic adds."""
    return jnp.matmul((assignment == jnp.arange(k)[:, None]).astype(x.dtype), x, precision=EXACT)


def _assign(tokens: _Tokens, centres: jax.Array, chunk: int) -> _Step:
    """One pass over the tokens, block by block; centres and sums are without the tokens' mean."""
    k, size = len(centres), len(tokens.rows)
    m = math.ceil(size / chunk)
    n = math.ceil(size / m)
    offsets = jnp.sum(jnp.square(centres), 1, keepdims=True)

    def add(totals, first):
        begin = jnp.minimum(first, size - n)  # The last block repeats tokens of the one before: padding would copy all.
        x, valid, norms = tokens.block(begin, n)
        scores = products(-2 * centres, x)
        least, nearest = by_platform(scores, offsets, cpu=_least_by_loop, default=_least)
        target = jnp.where(valid & (begin + jnp.arange(n) >= first), nearest, k)
        sums = by_platform(
            x, target, cpu=lambda x, i: jax.ops.segment_sum(x, i, k), default=lambda x, i: _sums(x, i, k)
        )
        counts = jax.ops.segment_sum(jnp.ones(n), target, k)
        result = jnp.where(valid, nearest, -1), jnp.where(valid, jnp.maximum(least + norms, 0.0), -1.0)
        return (totals[0] + sums, totals[1] + counts), result

    nothing = jnp.zeros_like(centres), jnp.zeros(k)
    totals, results = jax.lax.scan(add, nothing, n * jnp.arange(m))
    assignment, distances = (jnp.append(x[:-1], x[-1, m * n - size :]) for x in results)
    return _Step(assignment, distances, *totals)


def _start_anew(tokens: _Tokens, distances: jax.Array, lost: jax.Array, centres: jax.Array) -> jax.Array:
    """Puts the j-th lost centre at the j-th farthest valid token; without one left, it stays."""

    def place(centres: jax.Array) -> jax.Array:
        far, index = jax.lax.top_k(distances, min(len(centres), distances.size))
        rank = jnp.cumsum(lost) - 1
        moved = lost & (rank < len(far)) & (far[rank] >= 0)
        return jnp.where(moved[:, None], tokens.take(index[rank]), centres)

    return jax.lax.cond(jnp.any(lost), place, lambda centres: centres, centres)


@functools.partial(jax.jit, static_argnames=("k", "rule", "chunk"))
def _cluster(
    key: jax.Array | None,
    rows: jax.Array,
    valid: jax.Array | None,
    centres: jax.Array | None,
    max_iterations: int | jax.Array,
    *,
    k: int,
    rule: str,
    chunk: int,
) -> Clusters:
    if centres is None:
        assert key is not None, "a start that is drawn needs a key"
        centres = STARTS[rule](key, rows, valid, k)
    tokens = _tokens(rows, valid, chunk)
    centres = centres - tokens.mean
    # As if each start centre had one token, itself: the first move leaves it, and a pass is
    # compiled once, not twice.
    step = _Step(jnp.full(len(rows), -2), jnp.full(len(rows), -1.0), centres, jnp.ones(k))

    def proceed(state):
        return (state[0] <= max_iterations) & state[-1]

    def iterate(state):
        moves, centres, step, _ = state
        lost = step.counts == 0
        means = jnp.where(lost[:, None], centres, step.sums / jnp.maximum(step.counts, 1)[:, None])
        centres = _start_anew(tokens, step.distances, lost, means)
        new = _assign(tokens, centres, chunk)
        return moves + 1, centres, new, jnp.any(new.assignment != step.assignment)

    moves, centres, step, _ = jax.lax.while_loop(proceed, iterate, (jnp.int32(0), centres, step, jnp.bool_(True)))
    inertia = jnp.sum(jnp.where(tokens.valid, step.distances, 0.0))
    return Clusters(centres + tokens.mean, step.assignment, inertia, moves - 1, step.counts)
