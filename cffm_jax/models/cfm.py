"""Cross-frame feature mining: the target reads the assembled context of its references (CFFM section 3.3, Eq. 4
and 5) or the prototypes of its video (CFFM++ section 4.2, Eq. 7 and 8).

Dimension key: N clips, C = 256 channels, A = 8 heads, D = 32 channels of a head, h w sides at stride 8, nh nw windows
  a side, P prototypes.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from cffm_jax.models import cffa, layers

HEADS = 8
MLP_RATIO = 4
EPSILON = 1e-5

ReferenceCells = tuple[tuple[jax.Array, jax.Array], ...]
"""Keys and values of each reference's pooled grid, [N * A, nh * m, nw * m, D] each (values alone without attention):
all that a block needs of them."""


class MLP(nn.Module):
    """Dense to 4C, exact GELU, dense to C on the last axis."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = x.shape[-1]
        x = jax.nn.gelu(layers.Dense(MLP_RATIO * c, self.dtype, name="fc1")(x), approximate=False)
        return layers.Dense(c, self.dtype, name="fc2")(x)


class _Pool(nn.Module):
    """Learned pooling of one source: a weight a position, shared by all channels, and one bias."""

    source: cffa.PooledSource

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        area = self.source.pool**2
        weight = self.param("weight", nn.initializers.constant(1.0 / area), (area,))
        return cffa.pool(x, weight, self.param("bias", nn.initializers.zeros, (1,)), self.source)


class MiningBlock(nn.Module):
    """One non-self attention step: the target reads 277 context tokens a window, then passes an MLP.

    The 289 tokens of the paper's r = {49, 20, 6, 7} hold 12 of the target's twice; merged, the result is the same.
    Keys and values are projected once on the (pooled) grid of each frame and then gathered.

    Attributes:
      references: the context table's rows of the references.
      width: C.
      attention: False leaves the mining out: a token's weight is its position's (learned) alone, whatever it and the
        target hold. The papers' "CFFA only", of which they say no more than that an MLP processes the tokens.
      dtype: compute type.
    """

    references: tuple[cffa.PooledSource, ...] = cffa.REFERENCES
    width: int = 256
    attention: bool = True
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.norm1 = layers.layer_norm(EPSILON, self.dtype)
        if self.attention:
            self.qkv = layers.Dense(3 * self.width, self.dtype)
        else:
            self.value = layers.Dense(self.width, self.dtype)
        self.proj = layers.Dense(self.width, self.dtype)
        self.norm2 = layers.layer_norm(EPSILON, self.dtype)
        self.mlp = MLP(self.dtype)
        self.pools = {source.name: _Pool(source) for source in self.sources}
        self.bias_own = self.param("bias_own", nn.initializers.zeros, (HEADS, cffa.REGION, cffa.REGION))
        self.bias_ring = self.param("bias_ring", layers.truncated_init, (HEADS, cffa.WINDOW**2, cffa.RING_TOKENS))
        self.biases = {
            s.name: self.param(f"bias_{s.name}", layers.truncated_init, (HEADS, s.bias_side, s.bias_side))
            for s in self.sources
        }

    @property
    def sources(self) -> tuple[cffa.PooledSource, ...]:
        return (cffa.TARGET, *self.references)

    def reference_cells(self, references: jax.Array) -> ReferenceCells:
        """Args: references [N, T-1, h, w, C], oldest first. Returns: what the block reads of their pooled grids."""
        normed = [self.norm1(references[:, i]) for i in range(references.shape[1])]
        return tuple(
            self._cells(self.pools[source.name](cffa.pad_to_windows(x)))
            for source, x in zip(self.references, normed, strict=True)
        )

    def __call__(self, target: jax.Array, cells: ReferenceCells) -> jax.Array:
        """Args: target [N, h, w, C]; cells: ``reference_cells`` of this block. Returns: [N, h, w, C], mined."""
        n, h, w, c = target.shape
        x = cffa.pad_to_windows(self.norm1(target))
        own = self._project(x)
        grids = (self._cells(self.pools[cffa.TARGET.name](x)), *cells)
        context = [  # keys (with attention) and values: [N * A, nh, nw, 277, D]
            cffa.assemble(fine, pooled, self.sources)
            for fine, *pooled in zip(own[-len(grids[0]) :], *grids, strict=True)
        ]
        bias = self.position_bias()[:, None, None]
        mask = jnp.asarray(cffa.context_mask(*context[0].shape[1:3], self.sources))[:, :, None]
        if self.attention:
            q = cffa.split_windows(own[0]) * (c // HEADS) ** -0.5
            logits = jnp.einsum("zabqd,zabkd->zabqk", q, context[0], preferred_element_type=jnp.float32)
            logits = logits.reshape(n, HEADS, *logits.shape[1:]) + bias + mask
        else:
            logits = jnp.broadcast_to(bias + mask, (n, HEADS, *mask.shape[:2], *bias.shape[-2:]))
        weights = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
        y = jnp.einsum("zabqk,zabkd->zabqd", weights.reshape(n * HEADS, *weights.shape[2:]), context[-1])
        y = cffa.join_windows(y)[:, :h, :w]
        y = y.reshape(n, HEADS, h, w, -1).transpose(0, 2, 3, 1, 4).reshape(n, h, w, c)
        target = target + self.proj(y)
        return target + self.mlp(self.norm2(target))

    def position_bias(self) -> jax.Array:
        """f32[A, 49, 277]: the fine region, then the pooled sources."""
        pooled = [self.biases[s.name].reshape(HEADS, -1)[:, cffa.relative_index(s.reach)] for s in self.sources]
        return jnp.concatenate([cffa.fine_bias(self.bias_own, self.bias_ring), *pooled], -1)

    def _project(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] -> queries, keys and values (or values alone) [3 or 1, N * A, H, W, D]: heads lead, as
        attention wants them."""
        n, h, w, c = x.shape
        x = self.qkv(x) if self.attention else self.value(x)
        x = x.reshape(n, h, w, -1, HEADS, c // HEADS).transpose(3, 0, 4, 1, 2, 5)
        return x.reshape(-1, n * HEADS, h, w, c // HEADS)

    def _cells(self, grid: jax.Array) -> tuple[jax.Array, ...]:
        """Keys and values (or values alone) of a pooled grid: [N, H, W, C] -> [N * A, H, W, D] each."""
        return tuple(self._project(grid)[1 if self.attention else 0 :])


class GlobalBlock(nn.Module):
    """One step of global mining: every position of the target reads the prototypes of its video, then passes an MLP.

    All positions see the same prototypes, so windows play no part; there is no position bias (CFFM++ Eq. 7 and 8).
    """

    width: int = 256
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, target: jax.Array, prototypes: jax.Array) -> jax.Array:
        """Args: target [N, h, w, C]; prototypes [N, P, C]. Returns: [N, h, w, C], mined."""
        n, h, w, c = target.shape
        norm = layers.layer_norm(EPSILON, self.dtype, name="norm1")
        q = layers.Dense(c, self.dtype, name="q")(norm(target)) * (c // HEADS) ** -0.5
        k, v = jnp.split(layers.Dense(2 * c, self.dtype, name="kv")(norm(prototypes)), 2, -1)
        q, k, v = (x.reshape(n, -1, HEADS, c // HEADS) for x in (q, k, v))
        logits = jnp.einsum("nqad,npad->naqp", q, k, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
        y = jnp.einsum("naqp,npad->nqad", weights, v).reshape(n, h, w, c)
        target = target + layers.Dense(c, self.dtype, name="proj")(y)
        return target + MLP(self.dtype, name="mlp")(layers.layer_norm(EPSILON, self.dtype, name="norm2")(target))
