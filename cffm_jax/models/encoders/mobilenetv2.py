"""MobileNetV2 encoder: inverted residuals with depthwise convolutions, strided or dilated.

Source: Sandler et al. (CVPR 2018); dilated as MMSegmentation's: stride and dilation of a stage are
those of its first block alone. Dimension key: N frames, H W sides of a map, C channels.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cffm_jax.models import layers
from cffm_jax.models.encoders.backbone import Backbone, Encoder, Size
from cffm_jax.models.foreign.layouts import BATCH_NORM, DEPTHWISE
from cffm_jax.models.foreign.names import AS_RELEASED, RELEASED, Layer, Origin, Rule, mm_conv, rules
from cffm_jax.models.products import encoder_counters


class Group(NamedTuple):
    """A stage: how much wider its blocks are within, channels, blocks, stride."""

    expansion: int
    channels: int
    blocks: int
    stride: int


GROUPS = (
    Group(1, 16, 1, 1), Group(6, 24, 2, 2), Group(6, 32, 3, 2), Group(6, 64, 4, 2), Group(6, 96, 3, 1),
    Group(6, 160, 3, 2), Group(6, 320, 1, 1),
)  # fmt: skip
MAPS = (1, 2, 4, 6)
"""The stages whose results are the four maps."""
STEM = 32

SIZES = {"mobilenetv2": Size((24, 32, 96, 320), tuple(group.blocks for group in GROUPS), "b0", (1e-5, 1e-5))}


class Block(nn.Module):
    """1x1 to ``expansion`` times the channels, depthwise 3x3, 1x1; residual where shapes allow."""

    channels: int
    expansion: int
    stride: int
    dilation: int
    epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        common = {"dtype": self.dtype, "epsilon": self.epsilon}
        y = x
        if self.expansion > 1:
            inner = self.expansion * x.shape[-1]
            y = layers.ConvNorm(inner, activation=nn.relu6, name="expand", **common)(y, train)
        y = layers.DepthwiseConvNorm(
            stride=self.stride, dilation=self.dilation, activation=nn.relu6, name="depthwise", **common
        )(y, train)
        y = layers.ConvNorm(self.channels, activation=None, name="project", **common)(y, train)
        return x + y if self.stride == 1 and x.shape[-1] == self.channels else y


class MobileNetV2(Encoder):
    """Encoder of the frames, of any size; it skips no branches (``drop_path``), as its authors'."""

    @nn.compact
    def stages(
        self, x: jax.Array, train: bool = False, first: int = 0, last: int = 3
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        epsilon, block = self.norm_epsilons[1], layers.rematerialised(Block, self.remat, 1)
        if first == 0:
            x = layers.ConvNorm(STEM, 3, self.dtype, 2, activation=nn.relu6, epsilon=epsilon, name="stem")(x, train)
        maps, reached, dilation = [], 2, 1
        for i, group in enumerate(GROUPS):
            stride = group.stride if reached * group.stride <= self.size.output_stride else 1
            dilation *= group.stride // stride
            reached *= stride
            if not (-1, *MAPS)[first] < i <= MAPS[last]:
                continue
            for j in range(group.blocks):
                own = (stride, dilation) if j == 0 else (1, 1)
                x = block(group.channels, group.expansion, *own, epsilon, self.dtype, name=f"layer{i + 1}_{j}")(
                    x, train
                )
            if i in MAPS:
                maps.append(x)
        return x, tuple(maps)


def _block(path: str, key: str, first: int) -> tuple[Layer, ...]:
    """The layers of a block, whose depthwise convolution is the one of number ``first``."""
    return (
        Layer(path + "depthwise/conv", f"{key}conv.{first}.conv", DEPTHWISE),
        Layer(path + "depthwise/norm", f"{key}conv.{first}.bn", BATCH_NORM),
        *mm_conv(path + "project", f"{key}conv.{first + 1}"),
    )


_PATH, _KEY = BLOCK = "layer{stage}_{block}/", "layer{stage}.{block}."
LAYERS = (
    *mm_conv("stem", "conv1"),
    *_block("layer1_{block}/", "layer1.{block}.", 0),  # It has no expansion.
    *mm_conv(_PATH + "expand", _KEY + "conv.0"),
    *_block(_PATH, _KEY, 1),
)

MMSEGMENTATION = Origin(
    name="MMSegmentation MobileNetV2",
    prefix="backbone.",
    marks=r"(conv1|layer[1-7]\.\d\.conv\.\d)\.(conv|bn)\..+",
    rules=AS_RELEASED,
    # What follows the last map in files of ImageNet's classifier.
    dead=(r"(backbone\.)?conv2\..+", r"head\..+", r"data_preprocessor\.(mean|std)"),
    licence="MMSegmentation's weights: Apache-2.0",
    heads=RELEASED,
)


def _of_torchvision() -> tuple[Rule, ...]:
    """torchvision counts blocks through all stages; within, convolution and norm are a pair but
    for the last two."""
    rows = [("conv1.conv.{leaf}", "features.0.0.{leaf}"), ("conv1.bn.{leaf}", "features.0.1.{leaf}")]
    number = 0
    for stage, group in enumerate(GROUPS, 1):
        last = 1 if group.expansion == 1 else 2
        for block in range(group.blocks):
            number += 1
            ours, theirs = f"layer{stage}.{block}.conv.", f"features.{number}.conv."
            for i in range(last):
                rows += [(f"{ours}{i}.conv.{{leaf}}", f"{theirs}{i}.0.{{leaf}}")]
                rows += [(f"{ours}{i}.bn.{{leaf}}", f"{theirs}{i}.1.{{leaf}}")]
            rows += [(f"{ours}{last}.conv.{{leaf}}", f"{theirs}{last}.{{leaf}}")]
            rows += [(f"{ours}{last}.bn.{{leaf}}", f"{theirs}{last + 1}.{{leaf}}")]
    return rules(*rows)


TORCHVISION = Origin(
    name="torchvision MobileNetV2",
    prefix="backbone.",
    marks=r"features\.\d+\.(conv\.\d|\d)\..+",
    rules=_of_torchvision(),
    dead=(r"(backbone\.)?features\.18\..+", r"(backbone\.)?classifier\.1\.(weight|bias)"),
    licence="torchvision's weights: BSD-3-Clause; they were trained on ImageNet",
)


def shapes(size: Size) -> dict[str, tuple[int, ...]]:
    """Of each map's last norm, with its channels."""
    return {f"layer{i + 1}.0.conv.2.bn.weight": (GROUPS[i].channels,) for i in MAPS}


BACKBONE = Backbone(
    SIZES, MobileNetV2, *encoder_counters(MobileNetV2), LAYERS, BLOCK, shapes, (MMSEGMENTATION, TORCHVISION),
    output_strides=(8, 16, 32), input_multiple=1, drops_paths=False, template_depths=(),
)  # fmt: skip
