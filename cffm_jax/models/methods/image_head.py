"""Image segmentation, frame by frame: PSPNet, DeepLabv3+, UperNet, OCRNet and FCN on any backbone.

Dimension key: as in ``method``; h w the map of the logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Integer

from cffm_jax.config import ModelConfig
from cffm_jax.errors import InputError
from cffm_jax.models import layers
from cffm_jax.models.criterion import Criterion
from cffm_jax.models.distillation import FrameOutputs
from cffm_jax.models.encoders import names as encoders
from cffm_jax.models.foreign.names import MethodNames
from cffm_jax.models.heads import deeplabv3plus, fcn, ocrnet, pspnet, upernet
from cffm_jax.models.heads.head import STEMS, Form, HeadForm, HeadKind, Maps
from cffm_jax.models.losses import cross_entropy
from cffm_jax.models.methods.method import Batch, Method, Prototypes, Tree
from cffm_jax.models.normalise import normalise
from cffm_jax.models.products import Counts, counts

HEADS: dict[str, HeadKind] = {
    "pspnet": pspnet.KIND,
    "deeplabv3plus": deeplabv3plus.KIND,
    "upernet": upernet.KIND,
    "ocrnet": ocrnet.KIND,
    "fcn": fcn.KIND,
}
"""One row a head."""


class FrameLogits(NamedTuple):
    """Logits of frames, and those of the auxiliary head, if there is one."""

    logits: Float32[Array, "N h w K"]
    auxiliary: Float32[Array, "N _ _ K"] | None


class ClipOutputs(NamedTuple):
    """Logits of the targets, and of every frame."""

    logits: Float32[Array, "B h w K"]
    frame_logits: Float32[Array, "B T h w K"]


class ImageHead(Method):
    """An encoder and a head: no frame reads another.

    Attributes:
      head_name: a key of ``KINDS``.
      form: of the head, and of a ResNet's stem.
      auxiliary_weight: of the auxiliary head's loss.
    """

    head_name: str = "pspnet"
    form: Form = "mmsegmentation"
    auxiliary_weight: float = ModelConfig.auxiliary_weight

    PARTS: ClassVar[Mapping[str, str]] = {
        **Method.PARTS,
        "head": "head",
        "classifier": "classifier",
        "auxiliary": "auxiliary head",
        "auxiliary_classifier": "auxiliary classifier",
    }
    CLASSIFIERS: ClassVar[tuple[str, ...]] = ("classifier", "auxiliary classifier")
    OPTIONS: ClassVar[Mapping[str, str]] = {**Method.OPTIONS, "form": "--model.form"}

    KINDS: ClassVar[Mapping[str, HeadKind]] = HEADS
    ONE_FORM: ClassVar[bool] = False
    """Whether each has one form, whatever ``model.form`` says."""

    @classmethod
    def all_foreign_names(cls) -> tuple[MethodNames, ...]:
        return tuple(form.names for kind in cls.KINDS.values() for form in kind.forms.values())

    @classmethod
    def form_of(cls, family: str, settings: ModelConfig) -> Form:
        """The form that the settings ask for. InputError: the head has not got it."""
        forms = cls.KINDS[family].forms
        if cls.ONE_FORM:
            return next(iter(forms))
        if settings.form not in forms:
            remedy = f"give --model.form {' or '.join(forms)}"
            raise InputError("--model.form", f"{settings.form}: {family} has no such form", remedy)
        return settings.form

    @classmethod
    def of(cls, family: str, backbone: str, settings: ModelConfig) -> dict[str, Any]:
        """The attributes, for ``create``."""
        form = cls.form_of(family, settings)
        variant = backbone + STEMS.get(form, "")
        return cls.shared(variant if variant in encoders.names() else backbone, settings) | {
            "head_name": family,
            "form": form,
            "auxiliary_weight": settings.auxiliary_weight,
        }

    @classmethod
    def create(cls, family: str, backbone: str, settings: ModelConfig) -> ImageHead:
        return cls(**cls.of(family, backbone, settings))

    # --- what it is

    @property
    def kind(self) -> HeadKind:
        return self.KINDS[self.head_name]

    @property
    def head_form(self) -> HeadForm:
        return self.kind.forms[self.form]

    @property
    def foreign_names(self) -> MethodNames:  # pyrefly: ignore
        return self.head_form.names

    @property
    def family(self) -> str:
        return self.head_name

    @property
    def public_name(self) -> str:
        """The name that ``create_model`` takes; the form says which stem the backbone has."""
        return f"{self.family}_{self.backbone.removesuffix(STEMS.get(self.form, ''))}"

    @property
    def settings_read(self) -> tuple[str, ...]:
        dropout = () if self.head_form.dropout is not None else ("model.dropout",)
        form = () if self.ONE_FORM else ("model.form",)
        auxiliary = ("model.auxiliary_weight",) if self.head_form.auxiliary else ()
        return *super().settings_read, *form, *auxiliary, *dropout

    @property
    def output_stride(self) -> int:
        return self.kind.output_stride

    @property
    def dilates_second(self) -> bool:
        return self.head_form.dilates_second

    @property
    def size(self) -> encoders.Size:
        """The encoder's."""
        return encoders.size_of(self.backbone, self.depths, self.output_stride)

    @property
    def input_multiple(self) -> int:
        return encoders.backbone_of(self.backbone).input_multiple

    @property
    def stride(self) -> int:
        return self.size.strides[0 if self.kind.fine else -1]

    @property
    def least_samples(self) -> int:
        return self.head_form.module.LEAST_SAMPLES

    def rows(self, prototypes: Prototypes = "video") -> tuple[str, ...]:
        return (self.kind.title,)

    # --- the stages

    def setup(self) -> None:
        super().setup()
        form, width = self.head_form, self.head_form.width or self.size.head_width
        rate = self.dropout if form.dropout is None else form.dropout
        self.head = form.module(width, self.dtype)
        self.head_dropout = layers.channel_dropout(rate) if not form.elementwise else layers.element_dropout(rate)
        self.classifier = layers.Dense(self.num_classes, self.dtype)
        if form.auxiliary:
            width = form.auxiliary.width or width // 2
            self.auxiliary = layers.ConvNorm(width, 3, self.dtype, use_bias=form.auxiliary.use_bias)
            self.auxiliary_dropout = layers.channel_dropout(rate)
            self.auxiliary_classifier = layers.Dense(self.num_classes, self.dtype)

    def encode(self, frames: Float[Array, "N H W K"], train: bool = False) -> Tree:
        """The encoder's maps."""
        return self.encode_stages(frames, train)

    def head_logits(self, maps: Maps, train: bool = False) -> FrameLogits:
        """Logits of an encoder's maps, each at its own stride."""
        regions = self.regions(maps, train) if self.head_form.auxiliary else None
        return FrameLogits(self.classified(self.head(maps, regions, train), train), regions)

    def own_logits(self, maps: Maps) -> Float32[Array, "N h w {self.num_classes}"]:
        """Logits alone: without the auxiliary head, unless they read it."""
        return self.classified(self.head_features(maps))

    def head_features(self, maps: Maps) -> Float[Array, "N h w _"]:
        """What these are of."""
        return self.head(maps, self.regions(maps) if self.head.READS_REGIONS else None)

    def regions(self, maps: Maps, train: bool = False) -> Float32[Array, "N _ _ {self.num_classes}"]:
        """The auxiliary head's logits."""
        x = self.auxiliary_dropout(self.auxiliary(maps[2], train), deterministic=not train)
        return self.auxiliary_classifier(x).astype(jnp.float32)

    def classified(
        self, features: Float[Array, "N h w _"], train: bool = False
    ) -> Float32[Array, "N h w {self.num_classes}"]:
        """Logits of the head's features."""
        return self.classifier(self.head_dropout(features, deterministic=not train)).astype(jnp.float32)

    def segment(
        self, features: Tree, memory: Sequence[Tree], referring: Bool[Array, " N"], contexts: Mapping[str, Tree]
    ) -> dict[str, Float32[Array, "N _ _ {self.num_classes}"]]:
        return {self.kind.title: self.own_logits(features)}

    def frame_logits(self, frames: Float[Array, "N H W K"]) -> Float32[Array, "N h w {self.num_classes}"]:
        """Logits of normalised frames."""
        return self.own_logits(self.encode_stages(frames))

    def auxiliary_logits(self, frames: Float[Array, "N H W K"]) -> Float32[Array, "N _ _ {self.num_classes}"]:
        """The auxiliary head's logits of normalised frames; ValueError for a form without one."""
        if not self.head_form.auxiliary:
            raise ValueError(f"{self.public_name} of form {self.form} has no auxiliary head")
        return self.regions(self.encode_stages(frames))

    def frame_outputs(self, frames: Float[Array, "N H W K"]) -> FrameOutputs:
        features = self.head_features(self.encode_stages(frames))
        return FrameOutputs(features, self.classified(features))

    # --- training

    def __call__(
        self, clips: Float[Array, "B T H W K"], train: bool = False
    ) -> Float32[Array, "B h w {self.num_classes}"]:
        """Logits of the last frame of each clip."""
        return self.clip_outputs(clips, train).logits

    def clip_outputs(self, clips: Float[Array, "B T H W K"], train: bool = False) -> ClipOutputs:
        b, t, *_ = clips.shape
        logits = self.head_logits(self.encode_stages(clips.reshape(b * t, *clips.shape[2:]), train), train).logits
        frames = logits.reshape(b, t, *logits.shape[1:])
        return ClipOutputs(frames[:, -1], frames)

    def loss(
        self, batch: Batch, frame_loss_weight: float, criterion: Criterion = cross_entropy
    ) -> tuple[Float32[Array, ""], dict[str, Float32[Array, ""]]]:
        """The loss of all labelled frames, each an ordinary one, plus the weighted one of the
        auxiliary head; ``frame_loss_weight`` is not read."""
        labels = batch["labels"]
        clips = normalise(batch["frames"], batch["size"], self.channels)[:, -labels.shape[1] :]
        logits, auxiliary = self.head_logits(self.encode_stages(clips.reshape(-1, *clips.shape[2:]), True), True)
        auxiliary = None if auxiliary is None else auxiliary[:, None]
        return self.weighted_loss(logits, auxiliary, labels.reshape(-1, 1, *labels.shape[2:]), criterion)

    def weighted_loss(
        self,
        logits: Float32[Array, "B h w {self.num_classes}"],
        auxiliary: Float32[Array, "B T _ _ {self.num_classes}"] | None,
        labels: Integer[Array, "B L H W"],
        criterion: Criterion,
    ) -> tuple[Float32[Array, ""], dict[str, Float32[Array, ""]]]:
        """The loss of targets, plus the weighted one of the auxiliary logits, if there are any, of
        the last frames of each clip that have both labels and such."""
        loss = criterion(logits, labels[:, -1])
        if auxiliary is None:
            return loss, {}
        frames = min(labels.shape[1], auxiliary.shape[1])
        labels, auxiliary = labels[:, -frames:], auxiliary[:, -frames:]
        beside = criterion(auxiliary.reshape(-1, *auxiliary.shape[2:]), labels.reshape(-1, *labels.shape[2:]))
        return loss + self.auxiliary_weight * beside, {"head_loss": loss, "auxiliary_loss": beside}

    def training_offsets(self, offsets: Sequence[int]) -> tuple[int, ...]:
        return ()

    # --- counts

    def macs(self, height: int, width: int, *, prototypes: int, executed: bool) -> dict[str, int]:
        family = encoders.backbone_of(self.backbone)
        encoder = family.macs(self.size, height, width, len(self.channels))
        return {**encoder, "head": self._head_counts(height, width, "own_logits").products}

    def elements(self, height: int, width: int, *, prototypes: int) -> int:
        encoder = encoders.backbone_of(self.backbone).elements(self.size, height, width)
        return encoder + self._head_counts(height, width, "own_logits").elements

    def training_macs(self, height: int, width: int, *, prototypes: int) -> int:
        family = encoders.backbone_of(self.backbone)
        encoder = sum(family.macs(self.size, height, width, len(self.channels)).values())
        return 3 * (encoder + self._head_counts(height, width, "head_logits").products)

    def clip_macs(self, height: int, width: int) -> int:
        """Multiply-accumulates of a training clip, forward."""
        clip = jax.ShapeDtypeStruct((1, self.clip_frames, height, width, len(self.channels)), jnp.float32)
        return counts(lambda clip: self.init_with_output(jax.random.key(0), clip)[0], clip).products

    def _head_counts(self, height: int, width: int, method: str) -> Counts:
        """Of a method of the encoder's maps of a frame."""
        maps = [
            jax.ShapeDtypeStruct((1, -(-height // stride), -(-width // stride), c), jnp.float32)
            for stride, c in zip(self.size.strides, self.size.channels, strict=True)
        ]
        return counts(lambda *maps: self.init_with_output(jax.random.key(0), maps, method=method)[0], *maps)
