"""Where k-means starts: k of the tokens, drawn.

Dimension key: N tokens, C channels, k centres, S tokens to draw starts from.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

SAMPLE = 4096
"""Tokens that k-means++ draws from (32 k, if that is more)."""
EXACT = jax.lax.Precision.HIGHEST


def products(x: jax.Array, y: jax.Array) -> jax.Array:
    """[a, C] x [b, C] -> [a, b]."""
    return jax.lax.dot_general(x, y, (((1,), (1,)), ((), ())), precision=EXACT)


def _count(tokens: jax.Array, valid: jax.Array | None) -> jax.Array:
    return jnp.int32(len(tokens)) if valid is None else jnp.maximum(jnp.sum(valid, dtype=jnp.int32), 1)


def _by_rank(tokens: jax.Array, valid: jax.Array | None, ranks: jax.Array) -> jax.Array:
    """f32[..., C]: valid tokens by rank among the valid, so that padding changes no draw."""
    index = ranks if valid is None else jnp.searchsorted(jnp.cumsum(valid), ranks + 1)
    return tokens[index].astype(jnp.float32)


def _random(key: jax.Array, tokens: jax.Array, valid: jax.Array | None, k: int) -> jax.Array:
    """k different valid tokens."""
    count = _count(tokens, valid)
    order = jnp.where(jnp.arange(len(tokens)) < count, jax.random.uniform(key, (len(tokens),)), -1.0)
    return _by_rank(tokens, valid, jax.lax.top_k(order, k)[1] % count)


def _plus_plus(key: jax.Array, tokens: jax.Array, valid: jax.Array | None, k: int) -> jax.Array:
    """Greedy k-means++ on a token of each of S equal strata, or on all tokens if S or fewer."""
    size, trials, count = max(SAMPLE, 32 * k), 6 + int(3 * math.log(k)), _count(tokens, valid)
    place = jnp.arange(size)
    strata = (place + jax.random.uniform(key, (size,))) * (count / size)
    ranks = jnp.where(count > size, strata.astype(jnp.int32), place)
    x = _by_rank(tokens, valid, jnp.minimum(ranks, count - 1))
    mean, inside = jnp.mean(x, 0), place < count
    x = x - mean
    norms = jnp.sum(jnp.square(x), 1)

    def add(i, state):
        centres, distances = state
        mass = jnp.cumsum(jnp.where((i > 0) & (jnp.sum(distances) > 0), distances, inside))
        drawn = jax.random.uniform(jax.random.fold_in(key, i), (trials,)) * mass[-1]
        # Compared with all: a search would be a loop, of many small kernels on a GPU.
        drawn = jnp.searchsorted(mass, drawn, side="right", method="compare_all")
        drawn = jnp.minimum(drawn, jnp.minimum(count, size) - 1)
        shorter = jnp.maximum(norms[drawn, None] - 2 * products(x[drawn], x) + norms, 0.0)
        shorter = jnp.minimum(distances, shorter).at[jnp.arange(trials), drawn].set(0.0)  # Not drawn again.
        best = jnp.argmin(jnp.sum(shorter, 1))
        return centres.at[i].set(x[drawn[best]]), shorter[best]

    nothing = (jnp.zeros((k, x.shape[1])), jnp.where(inside, jnp.inf, 0.0))
    return jax.lax.fori_loop(0, k, add, nothing)[0] + mean


STARTS = {"k-means++": _plus_plus, "random": _random}
"""By name: a function of the key, the tokens f32[N, C], bool[N] valid or None, and k -> f32[k,
C]."""
