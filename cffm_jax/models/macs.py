"""Multiply-accumulates of one frame, counted by hand from the sizes of the architecture: no tracing, no compiler.

The encoder and the decoder run once on the frame; the features of its references are given (cached), but their
norms, pooling, keys and values count: every target pools its references anew. Three conventions:

- ``true``: what the papers' equations and the release compute. Per-frame logits count for SegFormer only: CFFM does not
  need them. In a mining block every layer up to the output projection runs on the map padded to whole windows, all
  three thirds of the qkv layer on pooled cells too, and a window attends to 289 tokens.
- ``executed``: what ``inference.offline`` runs. The decoder's projections are merged with the fuse kernel (no fuse at
  stride 4), a window attends to 277 tokens, the output projection runs on the map without padding, resize and pooling
  are one product, and both classifiers run (the first frames of a video take their own logits).
- ``paper``: the convention that comes closest to the MACs of the papers' Table 1: every dense layer twice (convolutions
  once), attention products left out. Up to 1.1 % below it. A normalised projection is a convolution.

Norms, activations, softmax, position biases and resizes are not multiply-accumulates here.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from cffm_jax.models import cffa, cfm
from cffm_jax.models.cffm import CFFM, INPUT_MULTIPLE
from cffm_jax.models.create import create_model
from cffm_jax.models.encoders.backbone import STRIDES
from cffm_jax.models.encoders.names import backbone_of, size_of

Convention = Literal["true", "executed", "paper"]

OWN_TOKENS = cffa.WINDOW**2
ENCODER_PARTS = (
    "patch_embeddings", "attention_projections", "attention_products", "attention_reduction", "encoder_mlp",
    "depthwise",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Macs:
    """Multiply-accumulates by part; ``total`` is their sum, ``encoder_attention`` that of its three parts."""

    patch_embeddings: int
    attention_projections: int
    attention_products: int
    attention_reduction: int
    encoder_mlp: int
    depthwise: int
    decoder_projections: int
    fuse: int
    frame_classifier: int
    cfm_qkv: int = 0
    cfm_attention: int = 0
    cfm_output: int = 0
    cfm_mlp: int = 0
    cfm_pooling: int = 0
    clip_classifier: int = 0
    global_query: int = 0
    global_prototypes: int = 0
    global_attention: int = 0
    global_output: int = 0
    global_mlp: int = 0
    global_classifier: int = 0

    @property
    def total(self) -> int:
        return sum(dataclasses.astuple(self))

    @property
    def encoder_attention(self) -> int:
        return self.attention_projections + self.attention_products + self.attention_reduction


PAPER_TIMES = {
    "attention_projections": 2, "encoder_mlp": 2, "decoder_projections": 2, "cfm_qkv": 2, "cfm_output": 2, "cfm_mlp": 2,
    "cfm_pooling": 2, "global_query": 2, "global_prototypes": 2, "global_output": 2, "global_mlp": 2,
    "attention_products": 0, "cfm_attention": 0, "global_attention": 0,
}  # fmt: skip
"""How often the papers' convention counts a part, once if absent. The release's dense layers are these; its fuse,
classifiers and spatial reduction are convolutions."""


def macs(
    name: str,
    height: int,
    width: int,
    *,
    num_classes: int = 124,
    prototypes: int = 100,
    projection: Literal["linear", "normalised"] = "linear",
    convention: Convention = "true",
) -> Macs:
    """Multiply-accumulates of one frame.

    Args:
      name: a model's public name, see ``create_model``.
      height: of the model's input, a multiple of 32.
      width: likewise.
      num_classes: K.
      prototypes: of the video; they are given, clustering is not counted.
      projection: see ``create_model``.
      convention: see the module's docstring.

    Raises:
      ValueError: the name is unknown or a side is no multiple of 32.

    Example:
      >>> round(macs("cffm_b1", 480, 864).total / 1e9, 2)
      39.9
    """
    if convention not in ("true", "executed", "paper"):
        raise ValueError(f"convention must be 'true', 'executed' or 'paper', not {convention!r}")
    if height % INPUT_MULTIPLE or width % INPUT_MULTIPLE:
        raise ValueError(f"frames are {height}x{width}: both sides must be multiples of {INPUT_MULTIPLE}")
    model = create_model(name, num_classes, projection=projection)
    executed = convention == "executed"
    parts = _encoder(model, height, width) | _decoder(model, height, width, merged=executed)
    if model.local_blocks:
        parts |= _mining(model, height // 8, width // 8, executed)
        parts["clip_classifier"] = height * width // 64 * 2 * model.width * num_classes
    if model.global_blocks:
        parts |= _global_mining(model, height // 8, width // 8, prototypes)
    if model.local_blocks and not executed:
        parts["frame_classifier"] = 0
    if convention == "paper":
        times = PAPER_TIMES | ({"decoder_projections": 1} if projection == "normalised" else {})
        parts = {part: times.get(part, 1) * count for part, count in parts.items()}
    return Macs(**parts)


def training_flops(model: CFFM, height: int, width: int, *, prototypes: int = 100) -> int:
    """Floating point operations of a training step for one clip, of what is ``executed``.

    Two for a multiply-accumulate, and the backward pass of what is trained as twice its forward pass; what
    rematerialisation computes again is no part of it. Local models encode and classify all frames of a clip; with
    global contexts the targets alone are encoded, and only the global blocks have a backward pass.

    Example:
      >>> from cffm_jax.models.cffm import create_model
      >>> round(training_flops(create_model("cffm_b1", 124), 480, 480) / 1e9)
      283
    """
    frame = _encoder(model, height, width) | _decoder(model, height, width, merged=True)
    whole = sum(frame.values())
    if model.global_blocks:
        trained = sum(_global_mining(model, height // 8, width // 8, prototypes).values())
        return 2 * (whole - frame["frame_classifier"] + 3 * trained)
    trained = whole * (len(model.sources) + 1)
    if model.local_blocks:
        trained += sum(_mining(model, height // 8, width // 8, executed=True).values())
        trained += height * width // 64 * 2 * model.width * model.num_classes
    return 6 * trained


def _encoder(model: CFFM, height: int, width: int) -> dict[str, int]:
    counts = backbone_of(model.backbone).macs(size_of(model.backbone), height, width)
    return dict.fromkeys(ENCODER_PARTS, 0) | counts


def _decoder(model: CFFM, height: int, width: int, *, merged: bool) -> dict[str, int]:
    """Merged, a stage's kernel already contains its slice of the fuse kernel (a product of once a call); that of a
    normalised projection does not, and its slice is applied at the stage's own stride."""
    channels = size_of(model.backbone).channels
    positions = [(height // stride) * (width // stride) for stride in STRIDES]
    fused = len(channels) * positions[0]
    if merged:
        fused = sum(positions) if model.projection == "normalised" else 0
    return {
        "decoder_projections": sum(n * c * model.width for n, c in zip(positions, channels, strict=True)),
        "fuse": fused * model.width**2,
        "frame_classifier": positions[0] * model.width * model.num_classes,
    }


def _mining(model: CFFM, h: int, w: int, executed: bool) -> dict[str, int]:
    """All blocks on a map of h x w."""
    c, sources = model.width, (cffa.TARGET, *model.sources)
    padded = cffa.padded_size(h) * cffa.padded_size(w)
    windows = padded // OWN_TOKENS
    cells = windows * sum(source.cells**2 for source in sources)
    fine = cffa.REGION**2 if executed else OWN_TOKENS + cffa.RING_TOKENS
    tokens = fine + sum(source.tokens for source in sources)
    # Released: p * p weights for each of the m * m cells; here the resize is part of the product: 49 for each.
    pooling = sum(source.cells**2 * (OWN_TOKENS if executed else source.pool**2) for source in sources)
    block = {
        "cfm_qkv": (padded + cells) * 3 * c * c,
        "cfm_attention": 2 * padded * tokens * c,
        "cfm_output": (h * w if executed else padded) * c * c,
        "cfm_mlp": 2 * h * w * cfm.MLP_RATIO * c * c,
        "cfm_pooling": windows * pooling * c,
    }
    return {part: model.local_blocks * count for part, count in block.items()}


def _global_mining(model: CFFM, h: int, w: int, prototypes: int) -> dict[str, int]:
    """All global blocks on a map of h x w, and their classifier."""
    c, positions = model.width, h * w
    block = {
        "global_query": positions * c * c,
        "global_prototypes": prototypes * 2 * c * c,
        "global_attention": 2 * positions * prototypes * c,
        "global_output": positions * c * c,
        "global_mlp": 2 * positions * cfm.MLP_RATIO * c * c,
    }
    parts = {part: model.global_blocks * count for part, count in block.items()}
    return parts | {"global_classifier": positions * c * model.num_classes}
