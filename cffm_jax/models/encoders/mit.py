"""Mix Transformer (MiT) encoder B0-B5 and PVTv2 B0-B5: four stages of overlapping patches and spatially reduced
attention.

Sources: SegFormer, which both papers take as their encoder (CFFM section 4.1); PVTv2 (Wang et al., 2022), whose network
MiT is but for the widths of its MLPs and some depths. Dimension key: N frames, H W sides of a stage's map, C channels,
A heads, D channels of a head, R spatial reduction, L = H * W queries, S = L / R^2 keys.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cffm_jax.models import layers


@dataclasses.dataclass(frozen=True)
class MiTSize:
    channels: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    mlp_ratios: tuple[int, int, int, int] = (4, 4, 4, 4)
    norm_epsilons: tuple[float, float] = (1e-5, 1e-6)
    """Of the embeddings' and reductions' norms, of the blocks' and stages'."""


SIZES = {
    "b0": MiTSize((32, 64, 160, 256), (2, 2, 2, 2)),
    "b1": MiTSize((64, 128, 320, 512), (2, 2, 2, 2)),
    "b2": MiTSize((64, 128, 320, 512), (3, 4, 6, 3)),
    "b3": MiTSize((64, 128, 320, 512), (3, 4, 18, 3)),
    "b4": MiTSize((64, 128, 320, 512), (3, 8, 27, 3)),
    "b5": MiTSize((64, 128, 320, 512), (3, 6, 40, 3)),
    "pvtv2_b0": MiTSize((32, 64, 160, 256), (2, 2, 2, 2), (8, 8, 4, 4)),
    "pvtv2_b1": MiTSize((64, 128, 320, 512), (2, 2, 2, 2), (8, 8, 4, 4)),
    "pvtv2_b2": MiTSize((64, 128, 320, 512), (3, 4, 6, 3), (8, 8, 4, 4)),
    "pvtv2_b3": MiTSize((64, 128, 320, 512), (3, 4, 18, 3), (8, 8, 4, 4)),
    "pvtv2_b4": MiTSize((64, 128, 320, 512), (3, 8, 27, 3), (8, 8, 4, 4)),
    "pvtv2_b5": MiTSize((64, 128, 320, 512), (3, 6, 40, 3)),
}
HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)


class Attention(nn.Module):
    """Self-attention whose keys and values come from a map reduced R times a side: [N, H, W, C] -> [N, H, W, C]."""

    heads: int
    reduction: int
    norm_epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        n, h, w, c = x.shape
        head = c // self.heads
        q = layers.Dense(c, self.dtype, name="q")(x).reshape(n, h * w, self.heads, head) * head**-0.5
        if self.reduction > 1:
            x = layers.PatchConv(self.reduction, c, self.dtype, name="reduce")(x)
            x = layers.layer_norm(self.norm_epsilon, self.dtype, "reduce_norm")(x)
        kv = layers.Dense(2 * c, self.dtype, name="kv")(x).reshape(n, -1, 2, self.heads, head)
        logits = jnp.einsum("nlad,nsad->nals", q, kv[:, :, 0], preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
        y = jnp.einsum("nals,nsad->nlad", weights, kv[:, :, 1])
        return layers.Dense(c, self.dtype, name="proj")(y.reshape(n, h, w, c))


class MixFFN(nn.Module):
    """Dense to ratio * C, depthwise 3x3, GELU, dense to C: [N, H, W, C] -> [N, H, W, C]."""

    ratio: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = x.shape[-1]
        x = layers.Dense(self.ratio * c, self.dtype, name="fc1")(x)
        x = layers.DepthwiseConv(self.dtype, name="dwconv")(x)
        x = jax.nn.gelu(x, approximate=False)
        return layers.Dense(c, self.dtype, name="fc2")(x)


class Block(nn.Module):
    """Two residual branches, attention and Mix-FFN, each behind a LayerNorm: [N, H, W, C] -> [N, H, W, C]."""

    heads: int
    reduction: int
    mlp_ratio: int
    norm_epsilons: tuple[float, float]
    drop_path: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        drop = layers.DropPath(self.drop_path)
        of_reduction, of_block = self.norm_epsilons
        y = layers.layer_norm(of_block, self.dtype, "norm1")(x)
        x = x + drop(Attention(self.heads, self.reduction, of_reduction, self.dtype, name="attn")(y), train)
        y = layers.layer_norm(of_block, self.dtype, "norm2")(x)
        return x + drop(MixFFN(self.mlp_ratio, self.dtype, name="mlp")(y), train)


class Stage(nn.Module):
    """Overlapping patch embedding, blocks, LayerNorm: [N, H', W', C'] -> [N, H, W, C]."""

    channels: int
    kernel: int
    stride: int
    heads: int
    reduction: int
    mlp_ratio: int
    norm_epsilons: tuple[float, float]
    drop_paths: tuple[float, ...]
    dtype: jnp.dtype
    remat: layers.Remat = "none"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        pad = self.kernel // 2
        x = nn.Conv(
            self.channels, (self.kernel, self.kernel), self.stride, ((pad, pad), (pad, pad)),
            dtype=self.dtype, kernel_init=layers.conv_init, name="embed",
        )(x)  # fmt: skip
        x = layers.layer_norm(self.norm_epsilons[0], self.dtype, "embed_norm")(x)
        block = layers.rematerialised(Block, self.remat, 1)
        for i, rate in enumerate(self.drop_paths):
            x = block(
                self.heads, self.reduction, self.mlp_ratio, self.norm_epsilons, rate, self.dtype, name=f"block{i}"
            )(x, train)
        return layers.layer_norm(self.norm_epsilons[1], self.dtype, "norm")(x)


class MiT(nn.Module):
    """Encoder of the frames.

    Attributes:
      size: "b0" .. "b5", "pvtv2_b0" .. "pvtv2_b5", a row of ``SIZES``.
      norm_epsilons: of the embeddings' and reductions' norms, of the blocks' and stages'.
      drop_path: the last block's probability of skipping a branch; it rises linearly from 0.
      dtype: compute type; parameters, norms and softmax are float32.
      depths: blocks of the stages; () as the size says.
      remat: what training computes anew, see ``layers.rematerialised``.
    """

    size: str
    norm_epsilons: tuple[float, float]
    drop_path: float
    dtype: jnp.dtype
    depths: tuple[int, ...] = ()
    remat: layers.Remat = "none"

    @nn.compact
    def __call__(self, frames: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        """Args: frames f32[N, H, W, 3], normalised, sides multiples of 32. Returns: four maps [N, H/s, W/s, C_s], s =
        4, 8, 16, 32."""
        size = SIZES[self.size]
        depths = self.depths or size.depths
        rates = np.linspace(0, self.drop_path, sum(depths)).tolist()
        x, maps = frames.astype(self.dtype), []
        for i, (channels, depth) in enumerate(zip(size.channels, depths)):
            rates_here, rates = tuple(rates[:depth]), rates[depth:]
            kernel, stride = (7, 4) if i == 0 else (3, 2)
            x = Stage(
                channels, kernel, stride, HEADS[i], REDUCTIONS[i], size.mlp_ratios[i], self.norm_epsilons, rates_here,
                self.dtype, self.remat, name=f"stage{i + 1}",
            )(x, train)  # fmt: skip
            maps.append(x)
        return tuple(maps)
