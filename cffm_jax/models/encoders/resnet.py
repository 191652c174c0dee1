"""ResNet encoder, 18, 50 and 101 layers, with the stems of its authors, of MMSegmentation ("v1c")
and of the VSPW baselines; its last stages strided or dilated.

Source: He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016); stems of 3x3 after
"Bag of Tricks" (CVPR 2019), dilation after Yu et al. (CVPR 2017). Dimension key: N frames, H W
sides of a stage's map, C channels.
"""

from __future__ import annotations

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from cffm_jax.models import layers
from cffm_jax.models.encoders.backbone import STRIDES, Backbone, Encoder, Size
from cffm_jax.models.foreign.names import AS_RELEASED, RELEASED, Layer, Origin, conv_norm, rules
from cffm_jax.models.products import encoder_counters


@dataclasses.dataclass(frozen=True)
class ResNetSize(Size):
    """A row of the family.

    Attributes:
      stem: widths of the stem's convolutions of 3x3; one alone is of 7x7.
      expansion: how much wider a block's result is than what it computes within: 4 of bottlenecks,
        1 of basic blocks.
    """

    norm_epsilons: tuple[float, float] = (1e-5, 1e-5)
    stem: tuple[int, ...] = (32, 32, 64)
    expansion: int = 4


_V1C = {
    "r18": ResNetSize((64, 128, 256, 512), (2, 2, 2, 2), "b1", expansion=1, head_width=128),
    "r50": ResNetSize((256, 512, 1024, 2048), (3, 4, 6, 3), "b2"),
    "r101": ResNetSize((256, 512, 1024, 2048), (3, 4, 23, 3), "b3"),
}


def _with_stem(ending: str, stem: tuple[int, ...]) -> dict[str, ResNetSize]:
    return {f"{name}_{ending}": dataclasses.replace(size, stem=stem) for name, size in _V1C.items()}


class Block(nn.Module):
    """Convolutions beside a shortcut, which is one of 1x1 in the first block of a stage that
    changes stride or channels.

    Attributes:
      width: C, channels of the result.
      expansion: see ``ResNetSize``.
      stride: of the first 3x3.
      dilation: likewise.
      second: dilation of a basic block's second 3x3.
      epsilon: of the norms.
    """

    width: int
    expansion: int
    stride: int
    dilation: int
    second: int
    epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv = functools.partial(layers.ConvNorm, dtype=self.dtype, epsilon=self.epsilon)
        inner = self.width // self.expansion
        moved = {"stride": self.stride, "dilation": self.dilation}
        if self.expansion == 1:
            y = conv(inner, 3, **moved, name="conv1")(x, train)
            y = conv(inner, 3, dilation=self.second, activation=None, name="conv2")(y, train)
        else:
            y = conv(inner, 1, name="conv1")(x, train)
            y = conv(inner, 3, **moved, name="conv2")(y, train)
            y = conv(self.width, 1, activation=None, name="conv3")(y, train)
        if self.stride > 1 or x.shape[-1] != self.width:
            x = conv(self.width, 1, stride=self.stride, activation=None, name="downsample")(x, train)
        return layers.relu_of_sum(x, y)


class Stem(nn.Module):
    """[N, H, W, K] -> [N, ceil(H / 4), ceil(W / 4), C]: convolutions, maxima of 3x3."""

    widths: tuple[int, ...]
    epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        side = 7 if len(self.widths) == 1 else 3
        for i, width in enumerate(self.widths):
            stride = 2 if i == 0 else 1
            x = layers.ConvNorm(width, side, self.dtype, stride, epsilon=self.epsilon, name=f"conv{i + 1}")(x, train)
        return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))


class Stage(nn.Module):
    """The blocks of a stage, in the first after the stem; what it gives is its map."""

    size: ResNetSize
    index: int
    epsilon: float
    dtype: jnp.dtype
    remat: layers.Remat = "none"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        size, block = self.size, layers.rematerialised(Block, self.remat, 1)
        if self.index == 0:
            x = Stem(size.stem, self.epsilon, self.dtype, name="stem")(x, train)
        before, after = ((STRIDES[0], *size.strides)[i] for i in (self.index, self.index + 1))
        dilation = STRIDES[self.index] // after
        # A first block that would have strided still has the dilation of the stage before.
        first = STRIDES[max(self.index - 1, 0)] // before
        for i in range(size.depths[self.index]):
            stride, rate = (after // before, first) if i == 0 else (1, dilation)
            rates = (1, dilation) if size.dilates_second and size.expansion == 1 else (rate, 1)
            x = block(
                size.channels[self.index], size.expansion, stride, *rates, self.epsilon, self.dtype, name=f"block{i}"
            )(x, train)
        return x, x


class ResNet(Encoder):
    """Encoder of the frames, of any size; it skips no branches (``drop_path``), as its authors'."""

    def stage(self, index: int, drop_paths: tuple[float, ...]) -> Stage:
        return Stage(self.size, index, self.norm_epsilons[1], self.dtype, self.remat, name=f"layer{index + 1}")


_PATH, _KEY = BLOCK = "layer{stage}/block{block}/", "layer{stage}.{block}."
_STEM = "layer1/stem/conv"
_BLOCKS = (
    *conv_norm(_PATH + "conv{number}", _KEY + "conv{number}", _KEY + "bn{number}"),
    *conv_norm(_PATH + "downsample", _KEY + "downsample.0", _KEY + "downsample.1"),
)
_NUMBERED = conv_norm(_STEM + "{number}", "conv{number}", "bn{number}")
_IN_A_ROW = tuple(
    layer for i in range(3) for layer in conv_norm(f"{_STEM}{i + 1}", f"stem.{3 * i}", f"stem.{3 * i + 1}")
)

_OF_BLOCKS = r"layer[1-4]\.\d+\.((conv|bn)\d|downsample\.\d)\..+"
_DEAD = (r"(backbone\.|encoder\.)?fc\.(weight|bias)", r"data_preprocessor\.(mean|std)")


def _origin(name: str, prefix: str, stem: str, licence: str) -> Origin:
    """Whose names differ in the stem alone; ``stem`` is the pattern of a layer of it."""
    return Origin(name, prefix, rf"{stem}\..+|{_OF_BLOCKS}", AS_RELEASED, _DEAD, licence, heads=RELEASED)


MMSEGMENTATION = _origin(
    "MMSegmentation ResNet (v1c)", "backbone.", r"stem\.\d", "MMSegmentation's weights: Apache-2.0"
)
VSPW_BASELINES = _origin(
    "ResNet of the VSPW baselines", "encoder.", r"(conv|bn)[23]", "weights of the VSPW baselines: no licence is known"
)
TORCHVISION = _origin(
    "torchvision ResNet", "backbone.", r"(conv|bn)1",
    "torchvision's weights: BSD-3-Clause; they were trained on ImageNet",
)  # fmt: skip
ETC = Origin(
    "ResNet of ETC's code", "", rf"layer0\.[01]\..+|{_OF_BLOCKS}",
    rules(("conv1.{leaf}", "layer0.0.{leaf}"), ("bn1.{leaf}", "layer0.1.{leaf}"), ("{leaf}", "{leaf}")),
    _DEAD, "weights of ETC's code: no licence is known", heads=RELEASED,
)  # fmt: skip


def shapes(size: ResNetSize) -> dict[str, tuple[int, ...]]:
    """Of each stage's first shortcut or convolution, with its channels."""
    inner = [c // size.expansion for c in size.channels]
    return {f"layer{i + 1}.0.bn1.weight": (c,) for i, c in enumerate(inner)} | {
        f"layer{i + 1}.0.downsample.1.weight": (c,) for i, c in enumerate(size.channels) if i
    }


def _with_first(key: str, side: int, size: ResNetSize) -> dict[str, tuple[int, ...]]:
    """The stem's first convolution too, by which the families differ."""
    return shapes(size) | {key: (size.stem[0], 3, side, side)}


def _family(sizes: dict[str, ResNetSize], stem: tuple[Layer, ...], first: str, side: int, *origins: Origin) -> Backbone:
    return Backbone(
        sizes, ResNet, *encoder_counters(ResNet), (*_BLOCKS, *stem), BLOCK,
        functools.partial(_with_first, first, side), origins,
        output_strides=(8, 16, 32), input_multiple=1, drops_paths=False, template_depths=(2, 2, 2, 2),
    )  # fmt: skip


V1C = _family(_V1C, _IN_A_ROW, "stem.0.weight", 3, MMSEGMENTATION)
VSPW = _family(_with_stem("vspw", (64, 64, 128)), _NUMBERED, "conv1.weight", 3, VSPW_BASELINES)
PLAIN = _family(_with_stem("plain", (64,)), _NUMBERED, "conv1.weight", 7, TORCHVISION, ETC)
