"""Mix Transformer (MiT) B0-B5: four stages of overlapping patches, spatially reduced attention.

Source: SegFormer, which both papers take as their encoder (CFFM section 4.1). Dimension key: N
frames, H W sides of a stage's map, C channels, A heads, D channels of a head, R spatial reduction,
L = H * W queries, S = L / R^2 keys.
"""

from __future__ import annotations

import collections
import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cffm_jax.models import layers
from cffm_jax.models.convolutions import convolution
from cffm_jax.models.encoders.backbone import STRIDES, Backbone, Encoder, Size
from cffm_jax.models.foreign.layouts import CONV, DENSE, DEPTHWISE, NORM, dense, first_third, other_thirds
from cffm_jax.models.foreign.names import AS_RELEASED, RELEASED, Layer, Origin, rules


@dataclasses.dataclass(frozen=True)
class MiTSize(Size):
    """A row, with the widths of each stage's MLPs in channels of the stage."""

    norm_epsilons: tuple[float, float] = (1e-5, 1e-6)
    mlp_ratios: tuple[int, int, int, int] = (4, 4, 4, 4)


SIZES = {
    "b0": MiTSize((32, 64, 160, 256), (2, 2, 2, 2), "b0"),
    "b1": MiTSize((64, 128, 320, 512), (2, 2, 2, 2), "b1"),
    "b2": MiTSize((64, 128, 320, 512), (3, 4, 6, 3), "b2"),
    "b3": MiTSize((64, 128, 320, 512), (3, 4, 18, 3), "b3"),
    "b4": MiTSize((64, 128, 320, 512), (3, 8, 27, 3), "b4"),
    "b5": MiTSize((64, 128, 320, 512), (3, 6, 40, 3), "b5"),
}
HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)


class Attention(nn.Module):
    """Self-attention on [N, H, W, C] with keys and values of a map reduced R times a side."""

    heads: int
    reduction: int
    norm_epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        n, h, w, c = x.shape
        head, r = c // self.heads, self.reduction
        tokens = context = layers.align(x.reshape(n, h * w, c), 1, self.dtype)
        if r > 1:
            context = layers.PatchConv(r, c, self.dtype, name="reduce", tokens=True)(x)
            context = layers.layer_norm(self.norm_epsilon, self.dtype, "reduce_norm")(context)
        q = layers.Dense(c, self.dtype, name="q")(tokens).reshape(n, -1, self.heads, head) * head**-0.5
        kv = layers.Dense(2 * c, self.dtype, name="kv")(context).reshape(n, -1, 2, self.heads, head)
        mask = layers.key_mask((h // r) * (w // r), self.dtype)
        weights = layers.softmax(layers.logits("nlad,nsad->nals", q, kv[:, :, 0]) + mask, self.dtype)
        y = jnp.einsum("nals,nsad->nlad", weights, kv[:, :, 1]).reshape(n, -1, c)
        return layers.Dense(c, self.dtype, name="proj")(y)[:, : h * w].reshape(n, h, w, c)


class MixFFN(nn.Module):
    """Dense to ratio * C, depthwise 3x3, GELU, dense to C."""

    ratio: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = x.shape[-1]
        x = layers.Dense(self.ratio * c, self.dtype, name="fc1")(x)
        x = layers.DepthwiseConv(self.dtype, name="dwconv")(x)
        x = layers.gelu(x)
        return layers.Dense(c, self.dtype, name="fc2")(x)


class Block(nn.Module):
    """Two residual branches, attention and Mix-FFN, each behind a LayerNorm."""

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
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        pad = self.kernel // 2
        x = nn.Conv(
            self.channels, (self.kernel, self.kernel), self.stride, ((pad, pad), (pad, pad)),
            dtype=self.dtype, kernel_init=layers.conv_init, conv_general_dilated=convolution, name="embed",
        )(x)  # fmt: skip
        x = layers.layer_norm(self.norm_epsilons[0], self.dtype, "embed_norm")(x)
        block = layers.rematerialised(Block, self.remat, 1)
        for i, rate in enumerate(self.drop_paths):
            x = block(
                self.heads, self.reduction, self.mlp_ratio, self.norm_epsilons, rate, self.dtype, name=f"block{i}"
            )(x, train)
        x = layers.layer_norm(self.norm_epsilons[1], self.dtype, "norm")(x)
        return x, x


class MiT(Encoder):
    """Encoder of the frames; ``size`` is a row of ``SIZES``, here or in ``pvtv2``."""

    size: MiTSize

    def stage(self, index: int, drop_paths: tuple[float, ...]) -> Stage:
        kernel, stride = (7, 4) if index == 0 else (3, 2)
        return Stage(
            self.size.channels[index], kernel, stride, HEADS[index], REDUCTIONS[index], self.size.mlp_ratios[index],
            self.norm_epsilons, drop_paths, self.dtype, self.remat, name=f"stage{index + 1}",
        )  # fmt: skip


def macs(size: MiTSize, height: int, width: int, channels: int) -> dict[str, int]:
    """Multiply-accumulates of one frame of height x width x channels by part."""
    parts, before = collections.Counter[str](), channels
    for i, (c, depth, ratio, stride, reduction) in enumerate(
        zip(size.channels, size.depths, size.mlp_ratios, STRIDES, REDUCTIONS, strict=True)
    ):
        queries = (height // stride) * (width // stride)
        keys = (height // stride // reduction) * (width // stride // reduction)
        kernel = 7 if i == 0 else 3
        parts["patch_embeddings"] += queries * kernel**2 * before * c
        parts["attention_projections"] += depth * (2 * queries + 2 * keys) * c * c  # q and output; k and v
        parts["attention_products"] += depth * 2 * queries * keys * c
        if reduction > 1:
            parts["attention_reduction"] += depth * keys * reduction**2 * c * c
        parts["encoder_mlp"] += depth * 2 * queries * ratio * c * c
        parts["depthwise"] += depth * queries * 9 * ratio * c
        before = c
    return dict(parts)


def elements(size: MiTSize, height: int, width: int) -> int:
    """Counts what the papers add to the products of one frame, see ``macs.ELEMENTWISE``."""
    count = 0
    for c, depth, ratio, stride, reduction in zip(
        size.channels, size.depths, size.mlp_ratios, STRIDES, REDUCTIONS, strict=True
    ):
        queries = (height // stride) * (width // stride)
        keys = (height // stride // reduction) * (width // stride // reduction)
        reduced = 2 * keys * c if reduction > 1 else 0  # Bias and norm.
        mlp = (2 + 1 + 1) * queries * ratio * c + 2 * queries * c  # Biases, depthwise bias, GELU; bias.
        block = 2 * queries * c + (2 + 2) * queries * c + 2 * 2 * keys * c + reduced + mlp  # Norms; q, output; k and v.
        count += 3 * queries * c + depth * block  # Bias of the embedding, its norm, the stage's.
    return count


_PATH, _KEY = BLOCK = "stage{stage}/block{block}/", "block{stage}.{block}."
LAYERS = (
    Layer("stage{stage}/embed", "patch_embed{stage}.proj", CONV),
    Layer("stage{stage}/embed_norm", "patch_embed{stage}.norm", NORM),
    Layer("stage{stage}/norm", "norm{stage}", NORM),
    Layer(_PATH + "norm{number}", _KEY + "norm{number}", NORM),
    Layer(_PATH + "attn/q", _KEY + "attn.q", DENSE),
    Layer(_PATH + "attn/kv", _KEY + "attn.kv", DENSE),
    Layer(_PATH + "attn/proj", _KEY + "attn.proj", DENSE),
    Layer(_PATH + "attn/reduce", _KEY + "attn.sr", CONV),
    Layer(_PATH + "attn/reduce_norm", _KEY + "attn.norm", NORM),
    Layer(_PATH + "mlp/fc{number}", _KEY + "mlp.fc{number}", DENSE),
    Layer(_PATH + "mlp/dwconv", _KEY + "mlp.dwconv.dwconv", DEPTHWISE),
)

CLASSIFIER = r"(\w+\.)?classifier\.(weight|bias)"
HEAD = r"(backbone\.)?head\.(weight|bias)"
"""ImageNet's classifier in files of an encoder: Hugging Face's, everybody else's."""
NON_COMMERCIAL = "NVIDIA's licence for SegFormer: non-commercial use (research and evaluation) only"

AUTHORS = Origin(
    name="NVlabs MiT (ImageNet)",
    prefix="backbone.",
    marks=r"(patch_embed|block|norm)\d\..+",
    rules=AS_RELEASED,
    dead=(HEAD,),
    licence=f"{NON_COMMERCIAL}; trained from such an encoder, a whole model inherits it (PVTv2's own files have "
    "these names too: they are Apache-2.0)",
    heads=RELEASED,
)

_THEIRS = "encoder.block.{stage0}.{block}."
_ATTENTION = _THEIRS + "attention."
HUGGING_FACE = Origin(
    name="Hugging Face SegFormer encoder",
    prefix="segformer.",
    marks=r"encoder\.(patch_embeddings|block|layer_norm)\..+",
    rules=rules(
        ("patch_embed{stage}.proj.{leaf}", "encoder.patch_embeddings.{stage0}.proj.{leaf}"),
        ("patch_embed{stage}.norm.{leaf}", "encoder.patch_embeddings.{stage0}.layer_norm.{leaf}"),
        ("norm{stage}.{leaf}", "encoder.layer_norm.{stage0}.{leaf}"),
        (_KEY + "norm{number}.{leaf}", _THEIRS + "layer_norm_{number}.{leaf}"),
        (_KEY + "attn.q.{leaf}", _ATTENTION + "self.query.{leaf}"),
        (_KEY + "attn.kv.{leaf}", (_ATTENTION + "self.key.{leaf}", _ATTENTION + "self.value.{leaf}"), np.concatenate),
        (_KEY + "attn.sr.{leaf}", _ATTENTION + "self.sr.{leaf}"),
        (_KEY + "attn.norm.{leaf}", _ATTENTION + "self.layer_norm.{leaf}"),
        (_KEY + "attn.proj.{leaf}", _ATTENTION + "output.dense.{leaf}"),
        (_KEY + "mlp.fc{number}.{leaf}", _THEIRS + "mlp.dense{number}.{leaf}"),
        (_KEY + "mlp.dwconv.{leaf}", _THEIRS + "mlp.dwconv.{leaf}"),
    ),
    dead=(CLASSIFIER,),
    licence=f"nvidia/mit-b* and nvidia/segformer-*: {NON_COMMERCIAL}; others: see the model's card",
    heads="Hugging Face",
    settings={"norm_epsilons": (1e-5, 1e-5)},
)

_LIVE = "stages.{stage0}.blocks.{block}."
_LIVE_ATTN = _LIVE + "attention."
# transformers 5 names the modules of a live model so (``model.state_dict()``); what it saves has
# the names above.
HUGGING_FACE_LIVE = dataclasses.replace(
    HUGGING_FACE,
    marks=r"stages\.\d\..+",
    rules=rules(
        ("patch_embed{stage}.proj.{leaf}", "stages.{stage0}.patch_embeddings.proj.{leaf}"),
        ("patch_embed{stage}.norm.{leaf}", "stages.{stage0}.patch_embeddings.layer_norm.{leaf}"),
        ("norm{stage}.{leaf}", "stages.{stage0}.layer_norm.{leaf}"),
        (_KEY + "norm1.{leaf}", _LIVE + "layernorm_before.{leaf}"),
        (_KEY + "norm2.{leaf}", _LIVE + "layernorm_after.{leaf}"),
        (_KEY + "attn.q.{leaf}", _LIVE_ATTN + "q_proj.{leaf}"),
        (_KEY + "attn.kv.{leaf}", (_LIVE_ATTN + "k_proj.{leaf}", _LIVE_ATTN + "v_proj.{leaf}"), np.concatenate),
        (_KEY + "attn.sr.{leaf}", _LIVE_ATTN + "sequence_reduction.sequence_reduction.{leaf}"),
        (_KEY + "attn.norm.{leaf}", _LIVE_ATTN + "sequence_reduction.layer_norm.{leaf}"),
        (_KEY + "attn.proj.{leaf}", _LIVE_ATTN + "o_proj.{leaf}"),
        (_KEY + "mlp.{leaf}", _LIVE + "mlp.{leaf}"),
    ),
    heads="Hugging Face live",
)

_LISTED = "layers.{stage0}.1.{block}."
MMSEGMENTATION = Origin(
    name="MMSegmentation MiT",
    prefix="backbone.",
    marks=r"layers\.\d\.[012]\..+",
    rules=rules(
        ("patch_embed{stage}.proj.{leaf}", "layers.{stage0}.0.projection.{leaf}"),
        ("patch_embed{stage}.norm.{leaf}", "layers.{stage0}.0.norm.{leaf}"),
        ("norm{stage}.{leaf}", "layers.{stage0}.2.{leaf}"),
        (_KEY + "norm{number}.{leaf}", _LISTED + "norm{number}.{leaf}"),
        (_KEY + "attn.q.{leaf}", _LISTED + "attn.attn.in_proj_{leaf}", first_third),
        (_KEY + "attn.kv.{leaf}", _LISTED + "attn.attn.in_proj_{leaf}", other_thirds),
        (_KEY + "attn.sr.{leaf}", _LISTED + "attn.sr.{leaf}"),
        (_KEY + "attn.norm.{leaf}", _LISTED + "attn.norm.{leaf}"),
        (_KEY + "attn.proj.{leaf}", _LISTED + "attn.attn.out_proj.{leaf}"),
        (_KEY + "mlp.fc1.{leaf}", _LISTED + "ffn.layers.0.{leaf}", dense),
        (_KEY + "mlp.dwconv.dwconv.{leaf}", _LISTED + "ffn.layers.1.{leaf}"),
        (_KEY + "mlp.fc2.{leaf}", _LISTED + "ffn.layers.4.{leaf}", dense),
    ),
    dead=(HEAD, r"data_preprocessor\.(mean|std)"),
    licence=f"MMSegmentation's own are Apache-2.0, but its MiT encoders start from NVIDIA's. {NON_COMMERCIAL}",
    heads="MMSegmentation",
    settings={"norm_epsilons": (1e-6, 1e-6)},
)


def shapes(size: MiTSize) -> dict[str, tuple[int, ...]]:
    """Of the norms with the stages' channels, and of the first MLP, which tells MiT from PVTv2."""
    c, ratio = size.channels[0], size.mlp_ratios[0]
    norms = {f"patch_embed{stage}.norm.weight": (channels,) for stage, channels in enumerate(size.channels, 1)}
    return {**norms, "block1.0.mlp.fc1.weight": (ratio * c, c)}


BACKBONE = Backbone(
    SIZES, MiT, macs, elements, LAYERS, BLOCK, shapes, (AUTHORS, HUGGING_FACE, HUGGING_FACE_LIVE, MMSEGMENTATION)
)
