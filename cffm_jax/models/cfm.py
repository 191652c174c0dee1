"""Cross-frame feature mining: the target reads the assembled context of its references (CFFM
section 3.3, Eq. 4 and 5) or the prototypes of its video (CFFM++ section 4.2, Eq. 7 and 8).

Dimension key: N clips, C = 256 channels, A = 8 heads, D = 32 channels of a head, h w sides at
stride 8, nh nw windows a side, P prototypes.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from cffm_jax.models import layers
from cffm_jax.models.contexts import cffa, windows
from cffm_jax.models.contexts.assemble import assemble
from cffm_jax.models.gather import take

HEADS = 8
MLP_RATIO = 4
EPSILON = 1e-5


class Cells(NamedTuple):
    """A reference's pooled grid as a block reads it: keys and values [N * A, nh * m, nw * m, D]. A
    block without attention reads values alone: its keys are None."""

    keys: jax.Array | None
    values: jax.Array

    @property
    def mined_keys(self) -> jax.Array:
        """The keys, for a block with attention."""
        assert self.keys is not None
        return self.keys


class MLP(nn.Module):
    """Dense to 4C, exact GELU, dense to C on the last axis."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "*lead C"]) -> Float[Array, "*lead C"]:
        c = x.shape[-1]
        x = layers.gelu(layers.Dense(MLP_RATIO * c, self.dtype, name="fc1")(x))
        return layers.Dense(c, self.dtype, name="fc2")(x)


class _Pool(nn.Module):
    """Learned pooling of one source: a weight a position, shared by all channels, and one bias; or
    a dense layer of all positions and channels. Either starts as the mean."""

    source: cffa.PooledSource

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        area, c = self.source.pool**2, x.shape[-1]
        if self.source.full:
            kernel = self.param("kernel", lambda _, shape: jnp.broadcast_to(jnp.eye(c) / area, shape), (area, c, c))
            return self.source.pooled(x, kernel, self.param("bias", nn.initializers.zeros, (c,)))
        weight = self.param("weight", nn.initializers.constant(1.0 / area), (area,))
        return self.source.pooled(x, weight, self.param("bias", nn.initializers.zeros, (1,)))


class _ContextBlock(nn.Module):
    """A block but for its tokens' weights: pools the context, adds its weighted sum and an MLP.

    The 289 tokens of the paper's r = {49, 20, 6, 7} hold 12 of the target's twice; merged, the
    result is the same. Keys and values are projected once, on each frame's (pooled) grid.

    Attributes:
      references: the context table's rows of the references.
      width: C.
      dtype: compute type.
      own: the table's row of the target.
      halo: positions around a window that it reads of the target, unpooled.
    """

    references: tuple[cffa.PooledSource, ...] = cffa.REFERENCES
    width: int = 256
    dtype: jnp.dtype = jnp.float32
    own: cffa.PooledSource = cffa.TARGET
    halo: int = windows.HALO

    def setup(self) -> None:
        self.norm1 = layers.layer_norm(EPSILON, self.dtype)
        self.proj = layers.Dense(self.width, self.dtype)
        self.norm2 = layers.layer_norm(EPSILON, self.dtype)
        self.mlp = MLP(self.dtype)
        self.pools = {source.name: _Pool(source) for source in self.sources}
        s = self.window
        self.bias_own = self.param("bias_own", nn.initializers.zeros, (HEADS, 2 * s - 1, 2 * s - 1))
        ring = (HEADS, s**2, windows.ring_tokens(s, self.halo))
        self.bias_ring = self.param("bias_ring", layers.truncated_init, ring) if self.halo else None
        self.biases = {
            row.name: self.param(f"bias_{row.name}", layers.truncated_init, (HEADS, row.bias_side, row.bias_side))
            for row in self.sources
        }

    @property
    def sources(self) -> tuple[cffa.PooledSource, ...]:
        return (self.own, *self.references)

    @property
    def window(self) -> int:
        return self.own.window

    def reference_cells(self, references: Float[Array, "N R h w C"]) -> tuple[Cells, ...]:
        """What the block reads of the pooled grids of R references, oldest first."""
        normed = [self.norm1(references[:, i]) for i in range(references.shape[1])]
        return tuple(
            self._cells(self.pools[source.name](windows.pad_to_windows(x, self.window)))
            for source, x in zip(self.references, normed, strict=True)
        )

    def position_bias(self) -> Float32[Array, "A _ _"]:
        """Biases of the fine region, then those of the pooled sources, for each position of a
        window: [A, 49, 277], both ``layers.align``-ed."""
        pooled = [
            take(self.biases[s.name].reshape(HEADS, -1), 1, windows.relative_index(s.reach, s.window))
            for s in self.sources
        ]
        fine = windows.fine_bias(self.bias_own, self.bias_ring, self.window, self.halo)
        bias = jnp.concatenate([fine, *pooled], -1)
        return layers.align(layers.align(bias, 1, self.dtype), 2, self.dtype)

    def _cells(self, grid: jax.Array) -> Cells:
        """Keys and values of a pooled grid [N, H, W, C]."""
        raise NotImplementedError

    def _weigh(self, logits: jax.Array, values: jax.Array, target: jax.Array) -> jax.Array:
        """The target after the block.

        Args:
          logits: f32[N, A, nh, nw, 49, 277] of the context tokens, with bias and mask; aligned.
          values: [N * A, nh, nw, 277, D], aligned.
          target: [N, h, w, C].
        """
        n, h, w, c = target.shape
        weights = layers.softmax(logits, self.dtype)
        y = jnp.einsum("zabqk,zabkd->zabqd", weights.reshape(n * HEADS, *weights.shape[2:]), values)
        y = windows.join_windows(y[..., : self.window**2, :], self.window)[:, :h, :w]
        y = y.reshape(n, HEADS, h, w, -1).transpose(0, 2, 3, 1, 4).reshape(n, h, w, c)
        target = target + self.proj(y)
        return target + self.mlp(self.norm2(target))

    def _mask(self, values: jax.Array) -> jax.Array:
        """``cffa.context_mask`` as f32[nh, nw, 1, _] for values [N * A, nh, nw, _, D]."""
        multiple = layers.alignment(self.dtype)
        return jnp.asarray(cffa.context_mask(*values.shape[1:3], self.sources, self.halo, multiple))[:, :, None]

    def _assemble(self, fine: jax.Array, grids: list[jax.Array]) -> jax.Array:
        return assemble(fine, grids, self.sources, self.halo, layers.alignment(self.dtype))


class MiningBlock(_ContextBlock):
    """One non-self attention step: the target reads 277 tokens a window, then passes an MLP."""

    def setup(self) -> None:
        super().setup()
        self.qkv = layers.Dense(3 * self.width, self.dtype)

    def __call__(self, target: Float[Array, "N h w C"], cells: tuple[Cells, ...]) -> Float[Array, "N h w C"]:
        """The target after mining ``cells``, which are ``reference_cells`` of this block."""
        n, _, _, c = target.shape
        x = windows.pad_to_windows(self.norm1(target), self.window)
        queries, keys, values = _split_heads(self.qkv(x), 3)
        grids = (self._cells(self.pools[self.own.name](x)), *cells)
        keys = self._assemble(keys, [grid.mined_keys for grid in grids])
        values = self._assemble(values, [grid.values for grid in grids])
        bias = self.position_bias()[:, None, None]
        mask = self._mask(values)
        queries = windows.split_windows(queries, self.window) * (c // HEADS) ** -0.5
        logits = layers.logits("zabqd,zabkd->zabqk", layers.align(queries, -2, self.dtype), keys)
        # XLA on GPUs would write the bias out for every window, for the product to begin with.
        logits = jax.lax.optimization_barrier(logits)
        return self._weigh(logits.reshape(n, HEADS, *logits.shape[1:]) + bias + mask, values, target)

    def _cells(self, grid: jax.Array) -> Cells:
        _, keys, values = _split_heads(self.qkv(grid), 3)
        return Cells(keys, values)


class PositionBlock(_ContextBlock):
    """A block without mining: a token's weight is learned for its position alone. The papers' "CFFA
    only", of which they say no more than that an MLP processes the tokens."""

    def setup(self) -> None:
        super().setup()
        self.value = layers.Dense(self.width, self.dtype)

    def __call__(self, target: Float[Array, "N h w C"], cells: tuple[Cells, ...]) -> Float[Array, "N h w C"]:
        """Mines as ``MiningBlock`` does."""
        x = windows.pad_to_windows(self.norm1(target), self.window)
        (values,) = _split_heads(self.value(x), 1)
        grids = (self._cells(self.pools[self.own.name](x)), *cells)
        values = self._assemble(values, [grid.values for grid in grids])
        bias, mask = self.position_bias()[:, None, None], self._mask(values)
        logits = jnp.broadcast_to(bias + mask, (len(target), HEADS, *mask.shape[:2], *bias.shape[-2:]))
        return self._weigh(logits, values, target)

    def _cells(self, grid: jax.Array) -> Cells:
        return Cells(None, _split_heads(self.value(grid), 1)[0])


def _split_heads(x: jax.Array, parts: int) -> jax.Array:
    """[N, H, W, parts * C] -> [parts, N * A, H, W, D]: heads lead, as attention wants them."""
    n, h, w, c = x.shape
    x = x.reshape(n, h, w, parts, HEADS, c // parts // HEADS).transpose(3, 0, 4, 1, 2, 5)
    return x.reshape(parts, n * HEADS, h, w, -1)


class GlobalBlock(nn.Module):
    """One step of global mining: every position of the target reads the prototypes of its video,
    then passes an MLP. It has no windows and no position bias (CFFM++ Eq. 7 and 8)."""

    width: int = 256
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, target: Float[Array, "N h w C"], prototypes: Float[Array, "N P C"]) -> Float[Array, "N h w C"]:
        """The target after mining the prototypes."""
        n, h, w, c = target.shape
        norm = layers.layer_norm(EPSILON, self.dtype, name="norm1")
        q = layers.Dense(c, self.dtype, name="q")(norm(target)) * (c // HEADS) ** -0.5
        context = layers.align(norm(prototypes), 1, self.dtype)
        k, v = jnp.split(layers.Dense(2 * c, self.dtype, name="kv")(context), 2, -1)
        q, k, v = (x.reshape(n, -1, HEADS, c // HEADS) for x in (q, k, v))
        mask = layers.key_mask(prototypes.shape[1], self.dtype)
        weights = layers.softmax(layers.logits("nqad,npad->naqp", q, k) + mask, self.dtype)
        y = jnp.einsum("naqp,npad->nqad", weights, v).reshape(n, h, w, c)
        target = target + layers.Dense(c, self.dtype, name="proj")(y)
        return target + MLP(self.dtype, name="mlp")(layers.layer_norm(EPSILON, self.dtype, name="norm2")(target))


def mining_macs(
    width: int, sources: tuple[cffa.PooledSource, ...], halo: int, h: int, w: int, *, executed: bool
) -> dict[str, int]:
    """Multiply-accumulates of one ``MiningBlock`` on a map of h x w; ``sources``: the target's row
    first; ``executed``: see ``macs``."""
    c, side = width, sources[0].window
    padded = windows.padded_size(h, side) * windows.padded_size(w, side)
    count = padded // side**2
    cells = count * sum(source.cells**2 for source in sources)
    fine = (side + 2 * halo) ** 2 if executed else side**2 + windows.ring_tokens(side, halo)
    tokens = fine + sum(source.tokens for source in sources)
    pooling = sum(source.pooling_products(c, executed) for source in sources)
    return {
        "cfm_qkv": (padded + cells) * 3 * c * c,
        "cfm_attention": 2 * padded * tokens * c,
        "cfm_output": (h * w if executed else padded) * c * c,
        "cfm_mlp": 2 * h * w * MLP_RATIO * c * c,
        "cfm_pooling": count * pooling,
    }


def global_macs(width: int, h: int, w: int, prototypes: int) -> dict[str, int]:
    """Multiply-accumulates of one ``GlobalBlock`` on a map of h x w."""
    c, positions = width, h * w
    return {
        "global_query": positions * c * c,
        "global_prototypes": prototypes * 2 * c * c,
        "global_attention": 2 * positions * prototypes * c,
        "global_output": positions * c * c,
        "global_mlp": 2 * positions * MLP_RATIO * c * c,
    }


def mining_elements(width: int, sources: tuple[cffa.PooledSource, ...], h: int, w: int) -> int:
    """Counts what the papers add to a ``MiningBlock``'s products, see ``macs.ELEMENTWISE``."""
    c, side = width, sources[0].window
    padded = windows.padded_size(h, side) * windows.padded_size(w, side)
    cells = padded // side**2 * sum(source.cells**2 for source in sources)
    norms = (len(sources) + 1) * h * w * c  # Of the target and its references; before the MLP.
    return 2 * (padded + cells) * 3 * c + 2 * cells * c + 2 * padded * c + norms + _mlp_elements(c, h * w)


def global_elements(width: int, h: int, w: int, prototypes: int) -> int:
    """Counts what the papers add to a ``GlobalBlock``'s products, see ``macs.ELEMENTWISE``."""
    c, positions = width, h * w
    of_prototypes = (2 * 2 + 1) * prototypes * c  # Keys and values, and their norm.
    return (2 + 2) * positions * c + 2 * positions * c + of_prototypes + _mlp_elements(c, positions)


def _mlp_elements(c: int, positions: int) -> int:
    return positions * c * ((2 + 1) * MLP_RATIO + 2)
