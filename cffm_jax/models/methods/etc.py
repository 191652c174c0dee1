"""ETC (Liu et al., ECCV 2020) as the VSPW baselines have it, and on PSPNet as its own code too:
heads that are trained to segment neighbouring frames alike along optical flow. They segment each
frame on its own.

With a teacher they learn of its outputs too, as in the paper; the baselines leave that out. A third
term of it, of the states of a small convolutional LSTM, is not here: its form was not at hand.

Dimension key: as in ``method``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from jaxtyping import Array, Float, Float32

from cffm_jax.config import ModelConfig
from cffm_jax.models.criterion import Criterion
from cffm_jax.models.distillation import FrameOutputs, distillation
from cffm_jax.models.flow.motion import motion_loss
from cffm_jax.models.foreign.names import AS_RELEASED, RELEASED, HeadOrigin, MethodNames
from cffm_jax.models.heads import pspnet
from cffm_jax.models.heads.head import Auxiliary, Form, HeadForm, HeadKind
from cffm_jax.models.losses import cross_entropy
from cffm_jax.models.methods.flow_head import RAFT_LAYERS, FlowHead, heads
from cffm_jax.models.methods.image_head import ClipOutputs
from cffm_jax.models.methods.method import Batch
from cffm_jax.models.normalise import normalise

_HEADS = heads("etc", "ETC", (), "conv_last_")
_OWN = HeadForm(
    pspnet.CornerPooling,
    MethodNames(
        prefix=("ppm.features.", "cls.", "aux."),
        layers=(*pspnet.ETC_LAYERS, *RAFT_LAYERS),
        origins={RELEASED: HeadOrigin({"": "ETC's code (PSPNet)"}, AS_RELEASED, settings={"form": "etc"})},
        families={"etc_psp": ()},
        lengths={"num_classes": "cls.4.weight"},
    ),
    auxiliary=Auxiliary(256),
    width=256,
    dilates_second=True,
)
_PSP = _HEADS["etc_psp"]
KINDS = _HEADS | {"etc_psp": HeadKind(_PSP.title, {**_PSP.forms, "etc": _OWN})}
"""One row a method."""


class MotionConsistent(FlowHead):
    """A head with ETC's loss.

    Attributes:
      motion_weight: of the motion loss.
      distillation_weight: of each loss of a teacher's outputs.
    """

    motion_weight: float = ModelConfig.motion_weight
    distillation_weight: float = ModelConfig.distillation_weight

    LEARNS: ClassVar[bool] = True
    KINDS: ClassVar[Mapping[str, HeadKind]] = KINDS
    ONE_FORM: ClassVar[bool] = False

    @classmethod
    def form_of(cls, family: str, settings: ModelConfig) -> Form:
        """The VSPW baselines', unless ETC's own is asked for. InputError: the head has not got
        it."""
        return super().form_of(family, settings) if settings.form == "etc" else "vspw"

    @classmethod
    def create(cls, family: str, backbone: str, settings: ModelConfig) -> MotionConsistent:
        own = {"motion_weight": settings.motion_weight, "distillation_weight": settings.distillation_weight}
        return cls(**cls.of(family, backbone, settings), **own)

    @property
    def settings_read(self) -> tuple[str, ...]:
        return *super().settings_read, "model.motion_weight", "model.distillation_weight", "train.teacher"

    def clip_outputs(self, clips: Float[Array, "B T H W K"], train: bool = False) -> ClipOutputs:
        """As of an image head; to initialise them the flow's weights are read too."""
        if self.is_initializing():
            self.flow_to(clips[:, 0], clips[:, -1])
        return super().clip_outputs(clips, train)

    def loss(
        self, batch: Batch, frame_loss_weight: float, criterion: Criterion = cross_entropy
    ) -> tuple[Float32[Array, ""], dict[str, Float32[Array, ""]]]:
        """``target_loss``, plus the weighted motion loss, plus the weighted ones of a teacher's
        outputs, if there is one; ``frame_loss_weight`` is not read."""
        clips = normalise(batch["frames"], batch["size"], self.channels)
        b, t, *shape = clips.shape
        maps = self.encode_stages(clips.reshape(b * t, *shape), True)
        regions = self.regions(maps, True)
        features = self.head(maps, regions, True)
        outputs = FrameOutputs(features, self.classified(features, True))
        logits, auxiliary = (x.reshape(b, t, *x.shape[1:]) for x in (outputs.logits, regions))
        loss, parts = self.target_loss(logits[:, -1], auxiliary, batch["labels"], criterion)
        pair = clips[:, 1], clips[:, 0]
        motion = motion_loss(*pair, logits[:, 1], logits[:, 0], self.flow_to(clips[:, 0], clips[:, 1]), self.grid)
        taught = distillation(outputs, batch)
        loss += self.motion_weight * motion + self.distillation_weight * sum(taught.values())
        return loss, {**parts, "motion_loss": motion, **taught}
