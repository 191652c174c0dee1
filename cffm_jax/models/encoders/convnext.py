"""ConvNeXt encoder, tiny to base: four stages of depthwise 7x7 convolutions and pointwise MLPs.

Source: Liu et al., "A ConvNet for the 2020s" (CVPR 2022). Each stage's map is normalised for the decoder, as in the
paper's dense predictions. Dimension key: N frames, H W sides of a stage's map, C channels.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cffm_jax.models import layers


@dataclasses.dataclass(frozen=True)
class ConvNeXtSize:
    channels: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    norm_epsilons: tuple[float, float] = (1e-6, 1e-6)
    """Of the norms beside the reducing convolutions, of the blocks' and stages'."""


SIZES = {
    "convnext_tiny": ConvNeXtSize((96, 192, 384, 768), (3, 3, 9, 3)),
    "convnext_small": ConvNeXtSize((96, 192, 384, 768), (3, 3, 27, 3)),
    "convnext_base": ConvNeXtSize((128, 256, 512, 1024), (3, 3, 27, 3)),
}
KERNEL = 7
MLP_RATIO = 4
LAYER_SCALE = 1e-6
"""Initial weight of every residual branch."""


class Block(nn.Module):
    """Depthwise 7x7, LayerNorm, dense to 4C, GELU, dense to C, a weight a channel: [N, H, W, C] -> [N, H, W, C]."""

    norm_epsilon: float
    drop_path: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        c = x.shape[-1]
        y = layers.DepthwiseConv(self.dtype, KERNEL, layers.truncated_init, name="dwconv")(x)
        y = layers.layer_norm(self.norm_epsilon, self.dtype, "norm")(y)
        y = layers.Dense(MLP_RATIO * c, self.dtype, name="pwconv1")(y)
        y = jax.nn.gelu(y, approximate=False)
        y = layers.Dense(c, self.dtype, name="pwconv2")(y)
        y = y * self.param("gamma", nn.initializers.constant(LAYER_SCALE), (c,)).astype(self.dtype)
        return x + layers.DropPath(self.drop_path)(y, train)


class Stage(nn.Module):
    """Convolution on patches of R x R, blocks: [N, R * H, R * W, C'] -> [N, H, W, C], and the same normalised.

    The first stage normalises after its convolution, the others before theirs.
    """

    channels: int
    side: int
    first: bool
    norm_epsilons: tuple[float, float]
    drop_paths: tuple[float, ...]
    dtype: jnp.dtype
    remat: layers.Remat = "none"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        of_reduction, of_block = self.norm_epsilons
        norm = layers.layer_norm(of_reduction, self.dtype, "reduce_norm")
        reduce = layers.PatchConv(self.side, self.channels, self.dtype, layers.truncated_init, name="reduce")
        x = norm(reduce(x)) if self.first else reduce(norm(x))
        block = layers.rematerialised(Block, self.remat, 1)
        for i, rate in enumerate(self.drop_paths):
            x = block(of_block, rate, self.dtype, name=f"blocks_{i}")(x, train)
        return x, layers.layer_norm(of_block, self.dtype, "norm")(x)


class ConvNeXt(nn.Module):
    """Encoder of the frames.

    Attributes:
      size: "convnext_tiny", "convnext_small" or "convnext_base", a row of ``SIZES``.
      norm_epsilons: of the norms beside the reducing convolutions, of the blocks' and stages'.
      drop_path: the last block's probability of skipping its branch; it rises linearly from 0.
      dtype: compute type; parameters and norms are float32.
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
            x, normalised = Stage(
                channels, 4 if i == 0 else 2, i == 0, self.norm_epsilons, rates_here, self.dtype, self.remat,
                name=f"stages_{i}",
            )(x, train)  # fmt: skip
            maps.append(normalised)
        return tuple(maps)
