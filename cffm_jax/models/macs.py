"""Multiply-accumulates of one frame, counted by hand from the architecture's sizes: no tracing.

The encoder and the decoder run once on the frame; the features of its references are given
(cached), but their norms, pooling, keys and values count: each target pools them anew. Conventions:

- ``true``: what the papers' equations and the release compute. Per-frame logits count for SegFormer
  only: CFFM does not need them. In a mining block every layer up to the output projection runs on
  the map padded to whole windows, all three thirds of the qkv layer on pooled cells too, and a
  window attends to 289 tokens.
- ``executed``: what ``inference.engine`` runs. The decoder's projections are merged with the fuse
  kernel (no fuse at stride 4), a window attends to 277 tokens, the output projection runs without
  padding, resize and pooling are one product, and both classifiers run (a video's first frames take
  their own logits).
- ``paper``: the MACs of the papers' Table 1, all twelve as printed: every dense layer twice
  (convolutions once; a normalised projection is one), attention products left out, and
  ``ELEMENTWISE`` besides.

Otherwise norms, activations, softmax, position biases and resizes are no multiply-accumulates.
"""

from __future__ import annotations

from typing import Literal

from cffm_jax.models.create import create_model
from cffm_jax.models.methods.method import Method

Convention = Literal["true", "executed", "paper"]


class Macs(dict[str, int]):
    """Multiply-accumulates by part."""

    @property
    def total(self) -> int:
        return sum(self.values())


ELEMENTWISE = "elementwise"
"""Part of the papers' convention alone: biases (of a dense layer twice an element, of a convolution
once), 2 an element of BatchNorm, 1 an element of LayerNorm, ReLU and GELU."""
PAPER_TIMES = {
    "attention_projections": 2, "encoder_mlp": 2, "decoder_projections": 2, "cfm_qkv": 2, "cfm_output": 2, "cfm_mlp": 2,
    "cfm_pooling": 2, "global_query": 2, "global_prototypes": 2, "global_output": 2, "global_mlp": 2,
    "attention_products": 0, "cfm_attention": 0, "global_attention": 0,
}  # fmt: skip
"""How often the papers' convention counts a part, once if absent. The release's dense layers are
these; its fuse, classifiers and spatial reduction are convolutions."""


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

    Examples:
      >>> round(macs("cffm_b1", 480, 864).total / 1e9, 2)
      39.9
    """
    if convention not in ("true", "executed", "paper"):
        raise ValueError(f"convention must be 'true', 'executed' or 'paper', not {convention!r}")
    model = create_model(name, num_classes, projection=projection)
    if height % model.input_multiple or width % model.input_multiple:
        raise ValueError(f"frames are {height}x{width}: both sides must be multiples of {model.input_multiple}")
    parts = model.macs(height, width, prototypes=prototypes, executed=convention == "executed")
    if convention == "paper":
        times = PAPER_TIMES | ({"decoder_projections": 1} if projection == "normalised" else {})
        parts = {part: times.get(part, 1) * count for part, count in parts.items()}
        parts[ELEMENTWISE] = model.elements(height, width, prototypes=prototypes)
    return Macs(parts)


def training_flops(model: Method, height: int, width: int, *, prototypes: int = 100) -> int:
    """Floating point operations of a training step for one clip, of what is ``executed``.

    Two for a multiply-accumulate, and the backward pass of what is trained as twice its forward
    pass; what rematerialisation computes again is no part of it.

    Examples:
      >>> from cffm_jax.models.create import create_model
      >>> round(training_flops(create_model("cffm_b1", 124), 480, 480) / 1e9)
      283
    """
    return 2 * model.training_macs(height, width, prototypes=prototypes)
