"""CFFM, CFFM++, CFFM+ and their image baseline SegFormer: one network, mining blocks or none.

Dimension key: as in ``method``; C = 256 channels of the features, A heads of D channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32

from cffm_jax.config import PrototypeConfig
from cffm_jax.models import cfm, layers
from cffm_jax.models.causal_prototypes import no_prototypes, with_frame
from cffm_jax.models.criterion import Criterion
from cffm_jax.models.foreign.names import MethodNames
from cffm_jax.models.kmeans import RunningClusters
from cffm_jax.models.losses import cross_entropy
from cffm_jax.models.methods import cffm_names
from cffm_jax.models.methods.cffm_families import FAMILIES, with_blocks
from cffm_jax.models.methods.cffm_sizes import ContextSizes
from cffm_jax.models.methods.frame_network import PER_FRAME, FrameFeatures, FrameNetwork
from cffm_jax.models.methods.method import Batch, Prototypes
from cffm_jax.models.normalise import normalise
from cffm_jax.models.resize import resize_bilinear

GLOBAL_PREFIX = "global"
"""Start of the names of the parameters that the second stage trains."""

LOCAL_ROW = FAMILIES["cffm"].title
"""Name of the logits after the local blocks."""

LOCAL_SETTINGS = (
    "receptive", "pooling", "target_receptive", "target_pooling", "window", "halo", "pooling_rule", "pooling_form",
    "references", "mining",
)  # fmt: skip
"""Fields of ``ModelConfig`` that networks with local blocks alone read."""

Memory = tuple[cfm.Cells, ...]
"""A reference as a target reads it: for each block its grid's keys and values [N, A, gh, gw, D]."""


class ClipOutputs(NamedTuple):
    """All results of a clip.

    Attributes:
      logits: the clip's logits of the target, with global contexts where the model has them.
      frame_logits: every frame's own (SegFormer) logits.
      mined: the target after the (local) mining blocks.
      global_logits: those of the global blocks; None without any.
    """

    logits: Float32[Array, "B 2*h 2*w K"]
    frame_logits: Float32[Array, "B T 2*h 2*w K"]
    mined: Float[Array, "B h w C"]
    global_logits: Float32[Array, "B 2*h 2*w K"] | None = None


class CFFM(ContextSizes):
    """Video semantic segmentation with temporal contexts.

    With local blocks it is CFFM, with global ones too CFFM++, with those alone CFFM+, with none
    SegFormer, frame by frame. A smaller method's parameters are those of the larger one.

    The attributes are those of `ContextSizes`.
    """

    PARTS: ClassVar[Mapping[str, str]] = {
        **FrameNetwork.PARTS,
        "local": "local blocks",
        "clip_classifier": "clip classifier",
        "globals": "global blocks",
        "global_classifier": "global classifier",
    }
    foreign_names: ClassVar[MethodNames] = cffm_names.NAMES
    CLASSIFIERS: ClassVar[tuple[str, ...]] = ("frame classifier", "clip classifier", "global classifier")

    # --- what it is

    @property
    def family(self) -> str:
        counts = {"blocks": self.local_blocks, "global_blocks": self.global_blocks}
        return with_blocks(*(name for name, count in counts.items() if count))

    @property
    def settings_read(self) -> tuple[str, ...]:
        local = LOCAL_SETTINGS if self.local_blocks else ()
        return (
            *super().settings_read,
            *(f"model.{name}" for name in local),
            *(("model.global_weight", "prototypes.", "eval.prototypes") if self.global_blocks else ()),
        )

    @property
    def reference_names(self) -> tuple[str, ...]:
        return tuple(source.name for source in self.sources) if self.local_blocks and not self.static else ()

    @property
    def clip_frames(self) -> int:
        return 1 if self.static else len(self.sources) + 1

    def contexts(self, prototypes: Prototypes = "video") -> tuple[Literal["video", "causal"], ...]:
        both = ("video", "causal")
        return tuple(kind for kind in both if prototypes in (kind, "both")) if self.global_blocks else ()

    def rows(self, prototypes: Prototypes = "video") -> tuple[str, ...]:
        local = (LOCAL_ROW,) if self.local_blocks else ()
        return (*map(self._global_row, self.contexts(prototypes)), *local, PER_FRAME)

    def _global_row(self, prototypes: str) -> str:
        name = FAMILIES[self.family].title
        return name if prototypes == "video" else f"{name}, {prototypes}"

    # --- the stages

    def setup(self) -> None:
        super().setup()
        if self.local_blocks:
            kind = cfm.MiningBlock if self.attention else cfm.PositionBlock
            block = layers.rematerialised(kind, self.remat, methods=("reference_cells", "__call__"))
            self.local = [
                block(self.sources, self.width, self.dtype, self.own, self.halo) for _ in range(self.local_blocks)
            ]
            self.clip_dropout = layers.channel_dropout(self.dropout)
            self.clip_classifier = layers.Dense(self.num_classes, self.dtype)
        if self.global_blocks:
            self.globals = [cfm.GlobalBlock(self.width, self.dtype) for _ in range(self.global_blocks)]
            self.global_dropout = layers.channel_dropout(self.dropout)
            self.global_classifier = layers.Dense(self.num_classes, self.dtype)

    def remember(self, features: FrameFeatures) -> tuple[Memory, ...]:
        """For each reference, each block's keys and values of the frame pooled as for it."""
        if not self.local_blocks:
            return ()
        n, *shape = features.coarse.shape
        in_each_role = jnp.broadcast_to(features.coarse[:, None], (n, len(self.sources), *shape))
        by_block = [block.reference_cells(in_each_role) for block in self.local]
        unfolded = jax.tree.map(lambda x: x.reshape(n, cfm.HEADS, *x.shape[1:]), by_block)
        return tuple(zip(*unfolded, strict=True))

    def start(self, size: tuple[int, int], settings: PrototypeConfig) -> RunningClusters | tuple[()]:
        return no_prototypes(size, self.width, settings) if self.global_blocks else ()

    def advance(
        self,
        state: RunningClusters,
        features: FrameFeatures,
        age: Int32[Array, " S"],
        settings: PrototypeConfig,
        memory: Sequence[Memory] = (),
    ) -> tuple[RunningClusters, Float32[Array, "S P C"]]:
        """Prototypes of the frames so far, each stream's present one included."""
        state = with_frame(state, features.coarse, age, settings)
        return state, state.centres

    def segment(
        self,
        features: FrameFeatures,
        memory: Sequence[Memory],
        referring: Bool[Array, " N"],
        contexts: Mapping[str, Float[Array, "N P C"]],
    ) -> dict[str, Float32[Array, "N _ _ {self.num_classes}"]]:
        """Segments as ``Method`` says; frames without references get their per-frame logits."""
        local = self.classify_frames(features.fine)
        logits = {PER_FRAME: local}
        if self.local_blocks:
            if self.static:  # Its contexts are there from the first frame on.
                memory, referring = self.remember(features), jnp.ones_like(referring)
            folded = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tuple(memory))
            mined = self.mine_cells(features.coarse, tuple(zip(*folded, strict=True)))
            mined_logits = self.classify_clip(features.coarse, mined)
            local = logits[LOCAL_ROW] = jnp.where(referring[:, None, None, None], mined_logits, local)
        for kind, prototypes in contexts.items():
            added = self.classify_global(self.mine_global(features.coarse, prototypes))
            logits[self._global_row(kind)] = local + self.global_weight * added
        return logits

    # --- clips

    def __call__(
        self, clips: Float[Array, "B T H W K"], train: bool = False, prototypes: Float[Array, "B P C"] | None = None
    ) -> Float32[Array, "B H//4 W//4 {self.num_classes}"]:
        """Logits of the last frame of each clip; the arguments are those of ``clip_outputs``."""
        return self.clip_outputs(clips, train, prototypes).logits

    def clip_outputs(
        self, clips: Float[Array, "B T H W K"], train: bool = False, prototypes: Float[Array, "B P C"] | None = None
    ) -> ClipOutputs:
        """Segments each clip's last frame; with global contexts by local + lambda * global logits.

        Args:
          clips: normalised, oldest first, the target last; sides multiples of 32.
          train: dropout, drop path and the batch's own statistics (needs a "dropout" key and
            mutable "batch_stats").
          prototypes: of each clip's video, for models with global contexts (``init`` needs none).
        """
        if self.global_blocks and prototypes is None and not self.is_initializing():
            raise ValueError("a model with global contexts needs prototypes=, f32[B, P, C]")
        b, t, h, w, _ = clips.shape
        features = self.encode(clips.reshape(b * t, *clips.shape[2:]), train)
        coarse = features.coarse.reshape(b, t, h // 8, w // 8, -1)
        target, references = coarse[:, -1], coarse[:, :-1]
        frame_logits = self.classify_frames(features.fine, train).reshape(b, t, h // 4, w // 4, -1)
        mined, logits, global_logits = target, frame_logits[:, -1], None
        if self.local_blocks:
            mined = self.mine_local(target, references)
            logits = self.classify_clip(target, mined, train)
        if self.global_blocks:
            if prototypes is None:
                prototypes = jnp.zeros((b, 1, self.width))
            global_logits = self.classify_global(self.mine_global(target, prototypes), train)
            logits = logits + self.global_weight * global_logits
        return ClipOutputs(logits, frame_logits, mined, global_logits)

    def mine_local(
        self, target: Float[Array, "N h w C"], references: Float[Array, "N _ h w C"]
    ) -> Float[Array, "N h w C"]:
        """Mining, block by block (CFFM Eq. 4-5): the mined target; references oldest first."""
        if self.static:
            references = jnp.broadcast_to(target[:, None], (len(target), len(self.sources), *target.shape[1:]))
        return self.mine_cells(target, [block.reference_cells(references) for block in self.local])

    def mine_cells(
        self, target: Float[Array, "N h w C"], cells: Sequence[tuple[cfm.Cells, ...]]
    ) -> Float[Array, "N h w C"]:
        """``mine_local`` with the references' cells of each block at hand."""
        for block, its_cells in zip(self.local, cells, strict=True):
            target = block(target, its_cells)
        return target

    def mine_global(
        self, target: Float[Array, "N h w C"], prototypes: Float[Array, "N P C"]
    ) -> Float[Array, "N h w C"]:
        """Global mining, block by block (CFFM++ Eq. 7-8): the mined target."""
        for block in self.globals:
            target = block(target, prototypes)
        return target

    def classify_clip(
        self, target: Float[Array, "N h w C"], mined: Float[Array, "N h w C"], train: bool = False
    ) -> Float32[Array, "N 2*h 2*w {self.num_classes}"]:
        """Clip logits of the target's features and their mined form."""
        _, h, w, _ = target.shape
        x = self.clip_dropout(jnp.concatenate([target, mined], -1), deterministic=not train)
        logits = self.clip_classifier(x).astype(jnp.float32)
        return resize_bilinear(logits, (2 * h, 2 * w))

    def classify_global(
        self, mined: Float[Array, "N h w C"], train: bool = False
    ) -> Float32[Array, "N 2*h 2*w {self.num_classes}"]:
        """Logits of the globally mined target, before they are weighted."""
        _, h, w, _ = mined.shape
        logits = self.global_classifier(self.global_dropout(mined, deterministic=not train)).astype(jnp.float32)
        return resize_bilinear(logits, (2 * h, 2 * w))

    # --- training

    def loss(
        self, batch: Batch, frame_loss_weight: float, criterion: Criterion = cross_entropy
    ) -> tuple[Float32[Array, ""], dict[str, Float32[Array, ""]]]:
        """``clip_loss`` (CFFM section 4.1); with global contexts the cross-entropy of their logits
        alone (CFFM++ section 4.2), on targets: all else as in evaluation, with no backward pass."""
        if self.global_blocks:
            targets = normalise(batch["frames"][:, -1], batch["size"], self.channels)
            logits = self.train_global(targets, batch["prototypes"])
            return criterion(logits, batch["labels"][:, -1]), {}
        return super().loss(batch, frame_loss_weight, criterion)

    def train_global(
        self, frames: Float[Array, "B H W K"], prototypes: Float[Array, "B P C"]
    ) -> Float32[Array, "B H//4 W//4 {self.num_classes}"]:
        """Global logits for the second stage of training, of the targets alone: global blocks read
        no references, and all else runs as in evaluation."""
        target = jax.lax.stop_gradient(self.encode(frames).coarse)
        return self.classify_global(self.mine_global(target, prototypes), train=True)

    def is_trained(self, name: str) -> bool:
        """All, or the global blocks and classifier alone (CFFM++ section 5.1: second stage)."""
        return not self.global_blocks or name.startswith(GLOBAL_PREFIX)

    def training_offsets(self, offsets: Sequence[int]) -> tuple[int, ...]:
        return () if self.global_blocks or self.static else tuple(offsets)

    @property
    def base(self) -> CFFM | None:
        return self.clone(global_blocks=0) if self.global_blocks else None

    @property
    def fresh_parts(self) -> tuple[str, ...] | None:
        return ("global blocks", "global classifier") if self.global_blocks else None
