"""The models: wiring of encoder, frame features and mining, and the public constructor.

Dimension key: B clips, T = 4 frames of a clip (references oldest first, target last), N frames, H W sides of the input,
K classes, C = 256 channels of the frame features, P prototypes.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cffm_jax.config import ModelConfig
from cffm_jax.models import cffa, cffm_names, cfm, layers
from cffm_jax.models.decoder import FrameDecoder
from cffm_jax.models.encoders.names import make_encoder
from cffm_jax.models.foreign.names import MethodNames
from cffm_jax.models.resize import resize_bilinear

INPUT_MULTIPLE = 32


GLOBAL_WEIGHT = 0.5
"""Lambda, the weight of the global logits beside the local ones (CFFM++ section 4.2)."""

GLOBAL_PREFIX = "global"
"""How the names of the parameters begin that the second stage trains."""

FAMILIES = {
    "segformer": (False, False),
    "cffm": (True, False),
    "cffmp": (False, True),
    "cffmpp": (True, True),
}
"""Names of the papers' methods -> local contexts, global contexts. ``cffmp`` is CFFM+, global contexts alone."""


class FrameFeatures(NamedTuple):
    """Features of N frames: ``fine`` [N, H/4, W/4, C], for the per-frame logits; ``coarse`` [N, H/8, W/8, C]."""

    fine: jax.Array
    coarse: jax.Array


class ClipOutputs(NamedTuple):
    """All results of a clip.

    Attributes:
      logits: f32[B, H/4, W/4, K], the clip's logits of the target, with global contexts where the model has them.
      frame_logits: f32[B, T, H/4, W/4, K], every frame's own (SegFormer) logits.
      mined: [B, H/8, W/8, C], the target after the (local) mining blocks.
      global_logits: f32[B, H/4, W/4, K], those of the global blocks; None without any.
    """

    logits: jax.Array
    frame_logits: jax.Array
    mined: jax.Array
    global_logits: jax.Array | None = None


class CFFM(nn.Module):
    """Video semantic segmentation with temporal contexts.

    With local blocks it is CFFM, with global ones besides CFFM++, with global ones alone the papers' CFFM+, and with
    none SegFormer, frame by frame. Parameters of a smaller method are those of the larger one.

    Attributes:
      backbone: one of ``encoders.names()``.
      num_classes: K.
      local_blocks: mining blocks N in sequence.
      norm_epsilons: of the encoder's norms: those of embeddings and reductions, those of blocks and stages.
      global_blocks: global mining blocks N_g in sequence.
      sources: the context table, one row a reference frame, oldest first.
      static: the target stands in for its references (static contexts alone).
      attention: False leaves the mining out ("CFFA only"), see ``cfm.MiningBlock``.
      projection: of the encoder's stages, see ``FrameDecoder``.
      width: channels of the frame features.
      dropout: share of channels dropped before each classifier.
      drop_path: the encoder's largest drop path rate.
      dtype: compute type; parameters, norms, softmax and logits are float32.
      depths: blocks of the encoder's stages; () as the backbone has.
      remat: what the backward pass of encoder and mining blocks computes anew, see ``layers.rematerialised``.
    """

    backbone: str
    num_classes: int
    local_blocks: int
    norm_epsilons: tuple[float, float]
    global_blocks: int = 0
    sources: tuple[cffa.PooledSource, ...] = cffa.REFERENCES
    static: bool = False
    attention: bool = True
    projection: Literal["linear", "normalised"] = ModelConfig.projection
    width: int = ModelConfig.width
    dropout: float = ModelConfig.dropout
    drop_path: float = ModelConfig.drop_path
    dtype: jnp.dtype = jnp.float32
    depths: tuple[int, ...] = ()
    remat: layers.Remat = "none"

    @property
    def public_name(self) -> str:
        """As ``create_model`` takes it."""
        contexts = bool(self.local_blocks), bool(self.global_blocks)
        return f"{next(name for name, has in FAMILIES.items() if has == contexts)}_{self.backbone}"

    @property
    def foreign_names(self) -> MethodNames:
        """Other people's names for its weights beside the encoder's."""
        return cffm_names.NAMES

    def setup(self):
        self.encoder = make_encoder(
            self.backbone, self.norm_epsilons, self.drop_path, self.dtype, self.depths, self.remat
        )
        self.decoder = FrameDecoder(self.width, self.dtype, self.projection)
        self.frame_dropout = layers.channel_dropout(self.dropout)
        self.frame_classifier = layers.Dense(self.num_classes, self.dtype)
        if self.local_blocks:
            block = layers.rematerialised(cfm.MiningBlock, self.remat, methods=("reference_cells", "__call__"))
            self.local = [block(self.sources, self.width, self.attention, self.dtype) for _ in range(self.local_blocks)]
            self.clip_dropout = layers.channel_dropout(self.dropout)
            self.clip_classifier = layers.Dense(self.num_classes, self.dtype)
        if self.global_blocks:
            self.globals = [cfm.GlobalBlock(self.width, self.dtype) for _ in range(self.global_blocks)]
            self.global_dropout = layers.channel_dropout(self.dropout)
            self.global_classifier = layers.Dense(self.num_classes, self.dtype)

    def __call__(
        self, clips: jax.Array, train: bool = False, outputs: str = "logits", prototypes: jax.Array | None = None
    ) -> jax.Array | ClipOutputs:
        """Segments the last frame of each clip.

        Args:
          clips: f32[B, T, H, W, 3], normalised, oldest first, the target last; sides multiples of 32.
          train: dropout, drop path and the batch's own statistics (needs a "dropout" key and mutable "batch_stats").
          outputs: "logits" or "all".
          prototypes: f32[B, P, C] of each clip's video, for the models with global contexts (not needed by ``init``).

        Returns:
          f32[B, H/4, W/4, K], or ``ClipOutputs`` for "all". With global contexts: local + 0.5 * global logits.
        """
        if outputs not in ("logits", "all"):
            raise ValueError(f"outputs must be 'logits' or 'all', not {outputs!r}")
        if self.global_blocks and prototypes is None and not self.is_initializing():
            raise ValueError("a model with global contexts needs prototypes=, f32[B, P, C]")
        b, t, h, w, _ = clips.shape
        features = self.encode(clips.reshape(b * t, h, w, 3), train)
        coarse = features.coarse.reshape(b, t, h // 8, w // 8, -1)
        target, references = coarse[:, -1], coarse[:, :-1]
        if outputs == "all" or not self.local_blocks or self.is_initializing():
            frame_logits = self.classify_frames(features.fine, train).reshape(b, t, h // 4, w // 4, -1)
        mined, logits, global_logits = target, None, None
        if self.local_blocks:
            mined = self.mine_local(target, references)
            logits = self.classify_clip(target, mined, train)
        else:
            logits = frame_logits[:, -1]
        if self.global_blocks:
            if prototypes is None:
                prototypes = jnp.zeros((b, 1, self.width))
            global_logits = self.classify_global(self.mine_global(target, prototypes), train)
            logits = logits + GLOBAL_WEIGHT * global_logits
        return ClipOutputs(logits, frame_logits, mined, global_logits) if outputs == "all" else logits

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
        if self.static:
            return self.mine_cells(target, self.reference_cells(target))
        for block in self.local:
            target = block(target, block.reference_cells(references))
        return target

    def reference_cells(self, coarse: jax.Array) -> tuple[cfm.ReferenceCells, ...]:
        """What later targets read of frames, for each block and each reference that a frame may become.

        Args:
          coarse: [N, h, w, C].

        Returns:
          For each block the keys and values of each role's pooled grid, see ``cfm.ReferenceCells``.
        """
        n, *shape = coarse.shape
        in_each_role = jnp.broadcast_to(coarse[:, None], (n, len(self.sources), *shape))
        return tuple(block.reference_cells(in_each_role) for block in self.local)

    def mine_cells(self, target: jax.Array, cells: tuple[cfm.ReferenceCells, ...]) -> jax.Array:
        """``mine_local`` with the references' cells at hand: [N, h, w, C], a block's of each -> [N, h, w, C]."""
        for block, own in zip(self.local, cells, strict=True):
            target = block(target, own)
        return target

    def mine_global(self, target: jax.Array, prototypes: jax.Array) -> jax.Array:
        """Global mining, block by block (CFFM++ Eq. 7-8): [N, h, w, C], [N, P, C] -> the mined target [N, h, w, C]."""
        for block in self.globals:
            target = block(target, prototypes)
        return target

    def classify_clip(self, target: jax.Array, mined: jax.Array, train: bool = False) -> jax.Array:
        """Clip logits of the target's features and their mined form: 2 x [N, h, w, C] -> f32[N, 2h, 2w, K]."""
        _, h, w, _ = target.shape
        x = self.clip_dropout(jnp.concatenate([target, mined], -1), deterministic=not train)
        logits = self.clip_classifier(x).astype(jnp.float32)
        return resize_bilinear(logits, (2 * h, 2 * w))

    def classify_global(self, mined: jax.Array, train: bool = False) -> jax.Array:
        """Logits of the globally mined target: [N, h, w, C] -> f32[N, 2h, 2w, K], before they are weighted."""
        _, h, w, _ = mined.shape
        logits = self.global_classifier(self.global_dropout(mined, deterministic=not train)).astype(jnp.float32)
        return resize_bilinear(logits, (2 * h, 2 * w))

    def train_global(self, frames: jax.Array, prototypes: jax.Array) -> jax.Array:
        """Global logits for the second stage of training: all but the global blocks runs as in evaluation.

        Args:
          frames: f32[B, H, W, 3], the targets alone: the global blocks read no references.
          prototypes: f32[B, P, C].

        Returns:
          f32[B, H/4, W/4, K].
        """
        target = jax.lax.stop_gradient(self.encode(frames).coarse)
        return self.classify_global(self.mine_global(target, prototypes), train=True)
