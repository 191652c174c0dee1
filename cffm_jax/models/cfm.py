"""Cross-frame feature mining (CFFM section 3.3, Eq. 4 and 5): the target's windows attend to the assembled context.

Dimension key: N clips, C = 256 channels, A = 8 heads, D = 32 channels of a head, h w sides at stride 8, nh nw windows
  a side.
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
"""Keys and values of each reference's pooled grid, [N * A, nh * m, nw * m, D] each: all that a block needs of them."""


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
    """

    references: tuple[cffa.PooledSource, ...] = cffa.REFERENCES
    width: int = 256
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.norm1 = layers.layer_norm(EPSILON, self.dtype)
        self.qkv = layers.Dense(3 * self.width, self.dtype)
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
        """Args: references [N, T-1, h, w, C], oldest first. Returns: keys and values of their pooled grids."""
        normed = [self.norm1(references[:, i]) for i in range(references.shape[1])]
        return tuple(
            self._keys_values(self.pools[source.name](cffa.pad_to_windows(x)))
            for source, x in zip(self.references, normed, strict=True)
        )

    def __call__(self, target: jax.Array, cells: ReferenceCells) -> jax.Array:
        """Args: target [N, h, w, C]; cells: ``reference_cells`` of this block. Returns: [N, h, w, C], mined."""
        n, h, w, c = target.shape
        x = cffa.pad_to_windows(self.norm1(target))
        qkv = self._heads(self.qkv(x), 3)
        q = cffa.split_windows(qkv[0]) * (c // HEADS) ** -0.5
        grids = (self._keys_values(self.pools[cffa.TARGET.name](x)), *cells)

        k, v = (cffa.assemble(qkv[1 + i], [grid[i] for grid in grids], self.sources) for i in range(2))
        y = self._attend(q, k, v)  # k, v [N * A, nh, nw, 277, D]
        y = cffa.join_windows(y)[:, :h, :w]
        y = y.reshape(n, HEADS, h, w, -1).transpose(0, 2, 3, 1, 4).reshape(n, h, w, c)
        target = target + self.proj(y)
        return target + self.mlp(self.norm2(target))

    def _attend(self, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        """q [N * A, nh, nw, 49, D], k and v [N * A, nh, nw, 277, D] -> [N * A, nh, nw, 49, D]; softmax in float32."""
        batch, nh, nw, tokens, _ = q.shape
        logits = jnp.einsum("zabqd,zabkd->zabqk", q, k, preferred_element_type=jnp.float32)
        mask = jnp.asarray(cffa.context_mask(nh, nw, self.sources))
        logits = logits.reshape(batch // HEADS, HEADS, nh, nw, tokens, -1)
        logits = logits + self.position_bias()[:, None, None] + mask[:, :, None]
        weights = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
        return jnp.einsum("zabqk,zabkd->zabqd", weights.reshape(batch, nh, nw, tokens, -1), v)

    def position_bias(self) -> jax.Array:
        """f32[A, 49, 277]: the fine region, then the pooled sources."""
        pooled = [self.biases[s.name].reshape(HEADS, -1)[:, cffa.relative_index(s.reach)] for s in self.sources]
        return jnp.concatenate([cffa.fine_bias(self.bias_own, self.bias_ring), *pooled], -1)

    def _heads(self, x: jax.Array, parts: int) -> jax.Array:
        """[N, H, W, parts * C] -> [parts, N * A, H, W, D]: heads lead, as attention wants them."""
        n, h, w, _ = x.shape
        x = x.reshape(n, h, w, parts, HEADS, -1).transpose(3, 0, 4, 1, 2, 5)
        return x.reshape(parts, n * HEADS, h, w, -1)

    def _keys_values(self, grid: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values of a pooled grid: [N, H, W, C] -> 2 x [N * A, H, W, D]."""
        keys, values = self._heads(self.qkv(grid), 3)[1:]
        return keys, values
