"""ConvNeXt encoder, tiny to base: four stages of depthwise 7x7 convolutions and pointwise MLPs.

Source: Liu et al., "A ConvNet for the 2020s" (CVPR 2022), as there with each stage's map normalised
for dense predictions. Dimension key: N frames, H W sides of a stage's map, C channels.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from cffm_jax.models import layers
from cffm_jax.models.encoders.backbone import STRIDES, Backbone, Encoder, Size
from cffm_jax.models.foreign.layouts import CONV, DENSE, DEPTHWISE, LAYER_SCALE, NORM, dense
from cffm_jax.models.foreign.names import AS_RELEASED, RELEASED, Layer, Origin, rules

SIZES = {
    "convnext_tiny": Size((96, 192, 384, 768), (3, 3, 9, 3), "b2"),
    "convnext_small": Size((96, 192, 384, 768), (3, 3, 27, 3), "b3"),
    "convnext_base": Size((128, 256, 512, 1024), (3, 3, 27, 3), "b5"),
}
KERNEL = 7
MLP_RATIO = 4
INITIAL_SCALE = 1e-6
"""Initial weight of every residual branch."""


class Block(nn.Module):
    """Depthwise 7x7, LayerNorm, dense to 4C, GELU, dense to C, a weight a channel; residual."""

    norm_epsilon: float
    drop_path: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        c = x.shape[-1]
        y = layers.DepthwiseConv(self.dtype, KERNEL, layers.truncated_init, name="dwconv")(x)
        y = layers.layer_norm(self.norm_epsilon, self.dtype, "norm")(y)
        y = layers.Dense(MLP_RATIO * c, self.dtype, name="pwconv1")(y)
        y = layers.gelu(y)
        y = layers.Dense(c, self.dtype, name="pwconv2")(y)
        y = y * self.param("gamma", nn.initializers.constant(INITIAL_SCALE), (c,)).astype(self.dtype)
        return x + layers.DropPath(self.drop_path)(y, train)


class Stage(nn.Module):
    """Convolution on patches of R x R, blocks: [N, R * H, R * W, C'] -> [N, H, W, C], and the same
    normalised. The first stage normalises after its convolution, the others before theirs."""

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


class ConvNeXt(Encoder):
    """Encoder of the frames; ``size`` is a row of ``SIZES``."""

    def stage(self, index: int, drop_paths: tuple[float, ...]) -> Stage:
        side, first = (4, True) if index == 0 else (2, False)
        return Stage(
            self.size.channels[index], side, first, self.norm_epsilons, drop_paths, self.dtype, self.remat,
            name=f"stages_{index}",
        )  # fmt: skip


def macs(size: Size, height: int, width: int, channels: int) -> dict[str, int]:
    """Multiply-accumulates of one frame of height x width x channels by part."""
    positions = [(height // stride) * (width // stride) for stride in STRIDES]
    stages = list(zip(positions, size.channels, size.depths, strict=True))
    reductions = zip(positions, (4, 2, 2, 2), (channels, *size.channels), size.channels)
    return {
        "patch_embeddings": sum(n * side**2 * before * c for n, side, before, c in reductions),
        "encoder_mlp": sum(depth * 2 * n * MLP_RATIO * c * c for n, c, depth in stages),
        "depthwise": sum(depth * n * KERNEL**2 * c for n, c, depth in stages),
    }


def elements(size: Size, height: int, width: int) -> int:
    """Counts what the papers add to the products of one frame, see ``macs.ELEMENTWISE``."""
    maps = [(height // stride) * (width // stride) * c for stride, c in zip(STRIDES, size.channels, strict=True)]
    normalised = [maps[0], *maps[:-1]]  # The first stage normalises what it reduced, the others what they reduce.
    # Biases of the convolution, the norm, and of the two dense layers; GELU.
    block = 2 + (2 + 1) * MLP_RATIO + 2
    return sum(normalised) + sum((2 + depth * block) * n for n, depth in zip(maps, size.depths, strict=True))


_PATH, _KEY = BLOCK = "stages_{stage0}/blocks_{block}/", "stages.{stage0}.{block}."
LAYERS = (
    # The first stage convolves before it normalises, the others after.
    Layer("stages_0/reduce", "downsample_layers.0.0", CONV),
    Layer("stages_0/reduce_norm", "downsample_layers.0.1", NORM),
    Layer("stages_{stage0}/reduce_norm", "downsample_layers.{stage0}.0", NORM),
    Layer("stages_{stage0}/reduce", "downsample_layers.{stage0}.1", CONV),
    Layer("stages_{stage0}/norm", "norm{stage0}", NORM),
    Layer(_PATH + "dwconv", _KEY + "dwconv", DEPTHWISE),
    Layer(_PATH + "norm", _KEY + "norm", NORM),
    Layer(_PATH + "pwconv{number}", _KEY + "pwconv{number}", DENSE),
    Layer(_PATH + "gamma", _KEY + "gamma", LAYER_SCALE),
)

_LICENCE = "ConvNeXt's ImageNet weights: MIT (its authors' files), Apache-2.0 (Hugging Face and timm)"

AUTHORS = Origin(
    name="ConvNeXt",
    prefix="backbone.",
    marks=r"(downsample_layers\.\d\.[01]|stages\.\d\.\d+)\..+",
    rules=AS_RELEASED,
    dead=(r"(backbone\.)?(head|norm)\.(weight|bias)",),
    licence=_LICENCE,
    heads=RELEASED,
    whole="a model with ConvNeXt in the released layout",
)

_THEIRS = "encoder.stages.{stage0}.layers.{block}."
HUGGING_FACE = Origin(
    name="Hugging Face ConvNeXt",
    prefix="convnext.",
    marks=r"(embeddings|encoder\.stages\.\d)\..+",
    rules=rules(
        ("downsample_layers.0.0.{leaf}", "embeddings.patch_embeddings.{leaf}"),
        ("downsample_layers.0.1.{leaf}", "embeddings.layernorm.{leaf}"),
        ("downsample_layers.{stage0}.{number}.{leaf}", "encoder.stages.{stage0}.downsampling_layer.{number}.{leaf}"),
        (_KEY + "dwconv.{leaf}", _THEIRS + "dwconv.{leaf}"),
        (_KEY + "norm.{leaf}", _THEIRS + "layernorm.{leaf}"),
        (_KEY + "pwconv{number}.{leaf}", _THEIRS + "pwconv{number}.{leaf}"),
        (_KEY + "gamma", _THEIRS + "layer_scale_parameter"),
        ("norm{stage0}.{leaf}", "hidden_states_norms.stage{stage}.{leaf}"),
    ),
    dead=(r"(\w+\.)?classifier\.(weight|bias)", r"convnext\.layernorm\.(weight|bias)"),
    licence=_LICENCE,
)

_TIMM = "stages.{stage0}.blocks.{block}."
TIMM = Origin(
    name="timm ConvNeXt",
    prefix="backbone.",
    marks=r"(stem\.[01]|stages\.\d\.(downsample\.[01]|blocks\.\d+\.(conv_dw|gamma|norm|mlp)))(\..+)?",
    rules=rules(
        ("downsample_layers.0.{number}.{leaf}", "stem.{number}.{leaf}"),
        ("downsample_layers.{stage0}.{number}.{leaf}", "stages.{stage0}.downsample.{number}.{leaf}"),
        (_KEY + "dwconv.{leaf}", _TIMM + "conv_dw.{leaf}"),
        (_KEY + "norm.{leaf}", _TIMM + "norm.{leaf}"),
        (_KEY + "pwconv{number}.{leaf}", _TIMM + "mlp.fc{number}.{leaf}", dense),
        (_KEY + "gamma", _TIMM + "gamma"),
    ),
    dead=(r"(backbone\.)?head\.(norm|fc)\.(weight|bias)",),
    licence=_LICENCE,
)


def shapes(size: Size) -> dict[str, tuple[int, ...]]:
    """Of a norm of each stage, with its channels."""
    return {f"stages.{i}.0.norm.weight": (c,) for i, c in enumerate(size.channels)}


BACKBONE = Backbone(
    SIZES, ConvNeXt, macs, elements, LAYERS, BLOCK, shapes, (AUTHORS, HUGGING_FACE, TIMM),
    # ImageNet's classifier reads the last map, by a norm of its own.
    afresh={"norm{stage0}.{leaf}": "norms of the encoder's stages"},
)  # fmt: skip
