"""What methods on optical flow have in common: an image head, and a RAFT that is not trained.

RAFT's weights lie beside the model's, under "flow": ``init.flow`` names their file, and a
checkpoint holds them. Counts of parameters leave them out.

Dimension key: as in ``method``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Integer

from cffm_jax.config import ModelConfig
from cffm_jax.models.criterion import Criterion
from cffm_jax.models.flow import names
from cffm_jax.models.flow.raft import Name, Raft, pad_frames
from cffm_jax.models.flow.warp import Grid
from cffm_jax.models.foreign.names import Layer
from cffm_jax.models.heads import ocrnet, pspnet
from cffm_jax.models.heads.head import HeadKind, vspw_names
from cffm_jax.models.methods.image_head import ImageHead
from cffm_jax.models.normalise import denormalise
from cffm_jax.models.products import counts

FLOW = "flow"
"""First name of the paths of RAFT's weights."""
RAFT_LAYERS = tuple(Layer(f"{FLOW}/{layer.path}", f"raft.{layer.key}", layer.kind) for layer in names.LAYERS)
_LAST = "conv_last_"
"""Key of PSPNet's last layers; those below "decoder." are built by the release, and not used."""


def _dead_arrays(live: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    fusion = {key: array for key, array in live.items() if re.match(rf"{_LAST}\.[01]\.", key)}
    counter = {f"{_LAST}.1.num_batches_tracked": np.zeros((), np.int64)} if fusion else {}
    return {f"decoder.{key}": np.zeros_like(array) for key, array in {**fusion, **counter}.items()}


def heads(family: str, title: str, own: Sequence[Layer], classifier: str) -> dict[str, HeadKind]:
    """PSPNet and OCRNet of the VSPW baselines within a system of theirs.

    Args:
      family: of the system, in front of _psp and _ocr.
      title: what the papers call it.
      own: the layers that it adds.
      classifier: the key of OCRNet's.
    """

    def kind(head: str, kind: HeadKind, layers: Sequence[Layer], classifier: str, **names: Any) -> HeadKind:
        name, whole = f"{family}_{head}", f"{title} ({kind.title})"
        all_names = vspw_names(name, whole, (*own, *layers, *RAFT_LAYERS), classifier=classifier, **names)
        return HeadKind(whole, {"vspw": dataclasses.replace(kind.forms["vspw"], names=all_names)})

    dead = {"dead": (rf"decoder\.{_LAST}\..*",), "dead_arrays": _dead_arrays}
    return {
        f"{family}_psp": kind("psp", pspnet.KIND, pspnet.vspw_layers(_LAST), f"{_LAST}.4", **dead),
        f"{family}_ocr": kind("ocr", ocrnet.KIND, ocrnet.vspw_layers("decoder.", classifier), classifier),
    }


class FlowHead(ImageHead):
    """An image head that reads, or is trained with, the flow from a frame to the one before.

    Attributes:
      flow_name: which RAFT.
      flow_updates: of the flow.
      grid: of warps.
      references: past frames of a clip; the last one is read.
    """

    flow_name: Name = ModelConfig.flow
    flow_updates: int = ModelConfig.flow_updates
    grid: Grid = ModelConfig.warp
    references: int = 1

    PARTS: ClassVar[Mapping[str, str]] = {**ImageHead.PARTS, FLOW: "optical flow"}
    BORROWED: ClassVar[tuple[str, ...]] = (FLOW,)
    OPTIONS: ClassVar[Mapping[str, str]] = {**ImageHead.OPTIONS, "flow_name": "--model.flow"}
    READS_CLIPS: ClassVar[bool] = True
    ONE_FORM: ClassVar[bool] = True

    @classmethod
    def of(cls, family: str, backbone: str, settings: ModelConfig) -> dict[str, Any]:
        return super().of(family, backbone, settings) | {
            "flow_name": settings.flow,
            "flow_updates": settings.flow_updates,
            "grid": settings.warp,
            "references": len(settings.receptive),
        }

    @property
    def settings_read(self) -> tuple[str, ...]:
        return *super().settings_read, "model.flow", "model.flow_updates", "model.warp", "init.flow"

    @property
    def clip_frames(self) -> int:
        """Two: the frame before, and the target."""
        return 2

    def training_offsets(self, offsets: Sequence[int]) -> tuple[int, ...]:
        return tuple(offsets[-1:])

    def setup(self) -> None:
        super().setup()
        self.flow = Raft(self.flow_name)

    def flow_to(self, previous: Float[Array, "N H W 3"], frames: Float[Array, "N H W 3"]) -> Float32[Array, "N H W 2"]:
        """The flow from normalised frames to those before, in pixels, without a gradient."""
        flow = self.flow.flow_between(denormalise(frames), denormalise(previous), self.flow_updates)
        return jax.lax.stop_gradient(flow)

    # --- training

    def target_loss(
        self,
        logits: Float32[Array, "B h w {self.num_classes}"],
        auxiliary: Float32[Array, "B T _ _ {self.num_classes}"],
        labels: Integer[Array, "B L H W"],
        criterion: Criterion,
    ) -> tuple[Float32[Array, ""], dict[str, Float32[Array, ""]]]:
        """The loss of targets, plus the weighted one of the auxiliary head: of PSPNet's on targets,
        of OCRNet's on both frames, if labelled."""
        auxiliary = auxiliary if self.head.READS_REGIONS else auxiliary[:, -1:]
        return self.weighted_loss(logits, auxiliary, labels, criterion)

    # --- counts

    def flow_macs(self, height: int, width: int, frames: int = 2) -> int:
        """Multiply-accumulates of the flow of a pair, of which so many frames are encoded."""
        raft, key = Raft(self.flow_name, parent=None), jax.random.key(0)  # pyrefly: ignore
        frame = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)

        def flow(current: jax.Array, previous: jax.Array) -> jax.Array:
            updates = self.flow_updates
            return raft.init_with_output(key, current, previous, updates, method="flow_between")[0]

        def features(frame: jax.Array) -> jax.Array:
            return raft.init_with_output(key, pad_frames(frame), method="features")[0]

        both, one = (counts(call, *(frame,) * n).products for call, n in ((flow, 2), (features, 1)))
        return both - (2 - frames) * one

    def training_macs(self, height: int, width: int, *, prototypes: int) -> int:
        return 3 * self.clip_macs(height, width) - 2 * self.flow_macs(height, width)  # Backwards there is no flow.
