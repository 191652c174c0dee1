"""The models: wiring of encoder, frame features and mining, and the public constructor.

Dimension key: B clips, T = 4 frames of a clip (references oldest first, target last), N frames, H W sides of the input,
K classes, C = 256 channels of the frame features.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cffm_jax.models import cffa, cfm, layers, mit
from cffm_jax.models.decoder import FrameDecoder
from cffm_jax.resize import resize_bilinear

INPUT_MULTIPLE = 32

LOCAL_BLOCKS = {"b0": 1, "b1": 2, "b2": 2, "b3": 2, "b4": 4, "b5": 4}
"""Mining blocks N for each backbone (CFFM section 4.1; B3 and B4, which the papers leave out, as their neighbours)."""


class FrameFeatures(NamedTuple):
    """Features of N frames: ``fine`` [N, H/4, W/4, C], for the per-frame logits; ``coarse`` [N, H/8, W/8, C]."""

    fine: jax.Array
    coarse: jax.Array


class ClipOutputs(NamedTuple):
    """All results of a clip.

    Attributes:
      logits: f32[B, H/4, W/4, K], the clip's logits of the target.
      frame_logits: f32[B, T, H/4, W/4, K], every frame's own (SegFormer) logits.
      mined: [B, H/8, W/8, C], the target after the mining blocks.
    """

    logits: jax.Array
    frame_logits: jax.Array
    mined: jax.Array


class CFFM(nn.Module):
    """Video semantic segmentation with local temporal contexts; without mining blocks it is SegFormer, frame by frame.

    Attributes:
      backbone: "b0" .. "b5".
      num_classes: K.
      local_blocks: mining blocks in sequence, 0 for the image baseline.
      references: the context table, one row a reference frame, oldest first.
      width: channels of the frame features.
      dropout: share of channels dropped before each classifier.
      drop_path: the encoder's largest drop path rate.
      dtype: compute type; parameters, norms, softmax and logits are float32.
    """

    backbone: str
    num_classes: int
    local_blocks: int
    references: tuple[cffa.PooledSource, ...] = cffa.REFERENCES
    width: int = 256
    dropout: float = 0.1
    drop_path: float = 0.1
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.encoder = mit.MiT(self.backbone, self.drop_path, self.dtype)
        self.decoder = FrameDecoder(self.width, self.dtype)
        self.frame_dropout = layers.channel_dropout(self.dropout)
        self.frame_classifier = layers.Dense(self.num_classes, self.dtype)
        if self.local_blocks:
            self.local = [cfm.MiningBlock(self.references, self.width, self.dtype) for _ in range(self.local_blocks)]
            self.clip_dropout = layers.channel_dropout(self.dropout)
            self.clip_classifier = layers.Dense(self.num_classes, self.dtype)

    def __call__(self, clips: jax.Array, train: bool = False, outputs: str = "logits") -> jax.Array | ClipOutputs:
        """Segments the last frame of each clip.

        Args:
          clips: f32[B, T, H, W, 3], normalised, oldest first, the target last; sides multiples of 32.
          train: dropout, drop path and the batch's own statistics (needs a "dropout" key and mutable "batch_stats").
          outputs: "logits" or "all".

        Returns:
          f32[B, H/4, W/4, K], or ``ClipOutputs`` for "all".
        """
        if outputs not in ("logits", "all"):
            raise ValueError(f"outputs must be 'logits' or 'all', not {outputs!r}")
        b, t, h, w, _ = clips.shape
        features = self.encode(clips.reshape(b * t, h, w, 3), train)
        if outputs == "all" or not self.local_blocks or self.is_initializing():
            frame_logits = self.classify_frames(features.fine, train).reshape(b, t, h // 4, w // 4, -1)
        if not self.local_blocks:
            logits = frame_logits[:, -1]
            coarse = features.coarse.reshape(b, t, h // 8, w // 8, -1)
            return ClipOutputs(logits, frame_logits, coarse[:, -1]) if outputs == "all" else logits
        coarse = features.coarse.reshape(b, t, h // 8, w // 8, -1)
        target, references = coarse[:, -1], coarse[:, :-1]
        mined = self.mine_local(target, references)
        logits = self.classify_clip(target, mined, train)
        return ClipOutputs(logits, frame_logits, mined) if outputs == "all" else logits

    def encode_stages(self, frames: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        """The encoder's four maps of f32[N, H, W, 3]: [N, H/s, W/s, C_s] for s = 4, 8, 16, 32."""
        _, h, w, _ = frames.shape
        if h % INPUT_MULTIPLE or w % INPUT_MULTIPLE:
            raise ValueError(f"frames are {h}x{w}: both sides must be multiples of {INPUT_MULTIPLE}")
        return self.encoder(frames, train)

    def encode(self, frames: jax.Array, train: bool = False) -> FrameFeatures:
        """Features of f32[N, H, W, 3]; each frame on its own, so that none is encoded twice."""
        fine = self.decoder(self.encode_stages(frames, train), train)
        n, h, w, c = fine.shape
        return FrameFeatures(fine, resize_bilinear(fine, (h // 2, w // 2)))

    def classify_frames(self, fine: jax.Array, train: bool = False) -> jax.Array:
        """Per-frame logits of stride-4 features: [N, H/4, W/4, C] -> f32[N, H/4, W/4, K]."""
        fine = self.frame_dropout(fine, deterministic=not train)
        return self.frame_classifier(fine).astype(jnp.float32)

    def frame_logits(self, frames: jax.Array) -> jax.Array:
        """SegFormer's logits of f32[N, H, W, 3]: f32[N, H/4, W/4, K]."""
        return self.classify_frames(self.encode(frames).fine)

    def mine_local(self, target: jax.Array, references: jax.Array) -> jax.Array:
        """Mining, block by block (CFFM Eq. 4-5): [N, h, w, C], [N, T-1, h, w, C] -> the mined target [N, h, w, C]."""
        for block in self.local:
            target = block(target, block.reference_cells(references))
        return target

    def classify_clip(self, target: jax.Array, mined: jax.Array, train: bool = False) -> jax.Array:
        """Clip logits of the target's features and their mined form: 2 x [N, h, w, C] -> f32[N, 2h, 2w, K]."""
        _, h, w, _ = target.shape
        x = self.clip_dropout(jnp.concatenate([target, mined], -1), deterministic=not train)
        logits = self.clip_classifier(x).astype(jnp.float32)
        return resize_bilinear(logits, (2 * h, 2 * w))


def create_model(
    name: str, num_classes: int, *, dtype: str | jnp.dtype = "float32", dropout: float = 0.1, drop_path: float = 0.1
) -> CFFM:
    """A model by its public name.

    Args:
      name: ``segformer_b0`` .. ``segformer_b5`` (the image baseline) or ``cffm_b0`` .. ``cffm_b5``.
      num_classes: K.
      dtype: compute type, "float32" or "bfloat16".
      dropout: share of channels dropped before each classifier.
      drop_path: the encoder's largest drop path rate.

    Raises:
      ValueError: the name is unknown.

    Example:
      >>> model = create_model("cffm_b0", num_classes=124)
      >>> model.local_blocks
      1
    """
    family, _, backbone = name.partition("_")
    if family not in ("segformer", "cffm") or backbone not in mit.SIZES:
        known = ", ".join(f"{f}_b0..b5" for f in ("segformer", "cffm"))
        raise ValueError(f"unknown model {name!r}; known: {known}")
    local_blocks = LOCAL_BLOCKS[backbone] if family == "cffm" else 0
    return CFFM(backbone, num_classes, local_blocks, dropout=dropout, drop_path=drop_path, dtype=jnp.dtype(dtype))
