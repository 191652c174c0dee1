"""Multiply-accumulates of the encoders, counted by hand from their sizes; see ``models.macs``."""

from __future__ import annotations

from cffm_jax.models.encoders import convnext, mit
from cffm_jax.models.encoders.names import STRIDES

COLOURS = 3
ENCODER_PARTS = (
    "patch_embeddings", "attention_projections", "attention_products", "attention_reduction", "encoder_mlp",
    "depthwise",
)  # fmt: skip


def encoder_macs(size: mit.MiTSize | convnext.ConvNeXtSize, height: int, width: int) -> dict[str, int]:
    """Those of one frame of height x width by part."""
    parts = dict.fromkeys(ENCODER_PARTS, 0)
    if isinstance(size, convnext.ConvNeXtSize):
        return parts | _convnext(size, height, width)
    before = COLOURS
    for i, (c, depth, ratio, stride, reduction) in enumerate(
        zip(size.channels, size.depths, size.mlp_ratios, STRIDES, mit.REDUCTIONS, strict=True)
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
    return parts


def _convnext(size: convnext.ConvNeXtSize, height: int, width: int) -> dict[str, int]:
    positions = [(height // stride) * (width // stride) for stride in STRIDES]
    stages = list(zip(positions, size.channels, size.depths, strict=True))
    reductions = zip(positions, (4, 2, 2, 2), (COLOURS, *size.channels), size.channels)
    return {
        "patch_embeddings": sum(n * side**2 * before * c for n, side, before, c in reductions),
        "encoder_mlp": sum(depth * 2 * n * convnext.MLP_RATIO * c * c for n, c, depth in stages),
        "depthwise": sum(depth * n * convnext.KERNEL**2 * c for n, c, depth in stages),
    }
