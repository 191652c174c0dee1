"""TCB, temporal context blending (Miao et al., CVPR 2021): ST-PPM and ST-OCR, the heads of PSPNet
and OCRNet whose pooled maps, or contexts of classes, are the mean of a clip's frames.

As the release of the VSPW baselines has them. Its references lie after the target while there are
so many frames; here they lie before it, as the paper says, on the same ring as CFFM's.

Dimension key: as in ``method``; h w the map of the logits.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32

from cffm_jax.config import ModelConfig, PrototypeConfig
from cffm_jax.models.criterion import Criterion
from cffm_jax.models.foreign.layouts import DENSE_1X1
from cffm_jax.models.foreign.names import Layer, MethodNames, conv_norm
from cffm_jax.models.heads import ocrnet, pspnet
from cffm_jax.models.heads.head import HeadForm, HeadKind, Maps, vspw_names
from cffm_jax.models.losses import cross_entropy
from cffm_jax.models.methods.image_head import ClipOutputs, FrameLogits, ImageHead
from cffm_jax.models.methods.method import Batch, Prototypes, Tree
from cffm_jax.models.normalise import normalise

_P = "ppm_conv."
_PPM = (
    *conv_norm("head/levels_{number}", _P + "ppm.{number}.0", _P + "ppm.{number}.1"),
    *conv_norm("head/fuse", _P + "conv_last_.0", _P + "conv_last_.1"),
    Layer("classifier", _P + "conv_last_.4", DENSE_1X1),
    *conv_norm("auxiliary", "deepsup.0", "deepsup.1"),
    Layer("auxiliary_classifier", "deepsup.4", DENSE_1X1),
)


def _kind(title: str, form: HeadForm, names: MethodNames) -> HeadKind:
    return HeadKind(title, {"vspw": dataclasses.replace(form, names=names)})


KINDS = {
    "tcb_ppm": _kind(
        "TCB ST-PPM",
        pspnet.KIND.forms["vspw"],
        vspw_names("tcb_ppm", "TCB ST-PPM", _PPM, classifier=_P + "conv_last_.4", prefix=(_P, "deepsup.")),
    ),
    "tcb_ocr": _kind(
        "TCB ST-OCR",
        ocrnet.KIND.forms["vspw"],
        vspw_names(
            "tcb_ocr", "TCB ST-OCR", ocrnet.vspw_layers("", "head"), classifier="head",
            prefix=("conv_3x3.", "spatial_ocr_head.", "dsn_head."),
        ),
    ),
}  # fmt: skip
"""One row a method."""

MEMORY_KINDS = {
    "tcb_ocr_mem": HeadKind("TCB ST-OCR-Mem", KINDS["tcb_ocr"].forms),
}
"""Likewise, of those with a memory in streams."""

HELD = 8
"""Contexts that the memory holds at most before another is appended."""


class Described(NamedTuple):
    """The head's features of frames, their contexts, and the auxiliary head's logits."""

    features: Float[Array, "N h w _"]
    context: Tree
    regions: Float32[Array, "N _ _ K"]


class Held(NamedTuple):
    """The list of a stream.

    Attributes:
      contexts: the newest last; zeros where there are fewer.
      count: of those that are there.
    """

    contexts: Float32[Array, "*S held K C"]
    count: Int32[Array, "*S"]


class TemporalContextBlending(ImageHead):
    """A head whose frames' contexts are averaged over a target and its references.

    Attributes:
      references: R past frames.
    """

    references: int = 3

    KINDS: ClassVar[Mapping[str, HeadKind]] = KINDS
    ONE_FORM: ClassVar[bool] = True

    @classmethod
    def of(cls, family: str, backbone: str, settings: ModelConfig) -> dict[str, Any]:
        return super().of(family, backbone, settings) | {"references": len(settings.receptive)}

    @property
    def settings_read(self) -> tuple[str, ...]:
        return *super().settings_read, "model.receptive"  # The number of references.

    @property
    def reference_names(self) -> tuple[str, ...]:
        return tuple(f"reference{i}" for i in range(self.references))

    def training_offsets(self, offsets: Sequence[int]) -> tuple[int, ...]:
        return tuple(offsets)

    # --- the stages

    def encode(self, frames: Float[Array, "N H W K"], train: bool = False) -> Described:
        return self.described(self.encode_stages(frames, train), train)

    def described(self, maps: Maps, train: bool = False) -> Described:
        """Of an encoder's maps."""
        features, regions = self.head.features(maps, train), self.regions(maps, train)
        return Described(features, self.head.context(features, regions), regions)

    def remember(self, features: Described) -> tuple[Tree, ...]:
        """A frame's context, which all references read alike."""
        return (features.context,)

    def segment(
        self, features: Described, memory: Sequence[Tree], referring: Bool[Array, " N"], contexts: Mapping[str, Tree]
    ) -> dict[str, Float32[Array, "N _ _ {self.num_classes}"]]:
        """Segments as ``Method`` says; a first frame without references is its own clip."""
        mean = jax.tree.map(lambda *each: sum(each) / len(each), features.context, *memory)
        return {self.kind.title: self.classified(self.head.with_context(features.features, mean))}

    def blended(self, frames: Described, length: int, train: bool = False) -> FrameLogits:
        """Logits of the last frames of clips of so many, and the auxiliary ones of all."""
        mean = jax.tree.map(lambda x: x.reshape(-1, length, *x.shape[1:]).mean(1), frames.context)
        targets = frames.features[length - 1 :: length]
        return FrameLogits(self.classified(self.head.with_context(targets, mean, train), train), frames.regions)

    # --- training

    def clip_outputs(self, clips: Float[Array, "B T H W K"], train: bool = False) -> ClipOutputs:
        """The logits of clips, and the auxiliary ones of their frames."""
        t = clips.shape[1]
        logits, auxiliary = self.blended(self.encode(clips.reshape(-1, *clips.shape[2:]), train), t, train)
        assert auxiliary is not None
        return ClipOutputs(logits, auxiliary.reshape(*clips.shape[:2], *auxiliary.shape[1:]))

    def loss(
        self, batch: Batch, frame_loss_weight: float, criterion: Criterion = cross_entropy
    ) -> tuple[Float32[Array, ""], dict[str, Float32[Array, ""]]]:
        """The loss of the targets, plus the weighted one of the auxiliary head on all labelled
        frames; ``frame_loss_weight`` is not read."""
        labels = batch["labels"]
        clips = normalise(batch["frames"], batch["size"], self.channels)
        return self.weighted_loss(*self.clip_outputs(clips, True), labels, criterion)

    # --- counts

    def training_macs(self, height: int, width: int, *, prototypes: int) -> int:
        return 3 * self.clip_macs(height, width)


def _of_first(age: Int32[Array, " S"], new: Array, kept: Array) -> Array:
    """The new arrays [S, ...] of streams at their first frame, those that are kept of others."""
    return jnp.where(jnp.reshape(age == 0, (-1, *[1] * (new.ndim - 1))), new, kept)


class BlendingWithMemory(TemporalContextBlending):
    """ST-OCR-Mem: ST-OCR's weights and training; in streams the mean is over the contexts of
    earlier frames too.

    A list holds them: each frame appends its references' and its own, oldest first; before each,
    the oldest are dropped while more than ``HELD`` are there.

    Attributes:
      memory: "newest", or "first": the list of a video's first frame is kept for good, and a frame
        reads it beside its own four, as the release does.
    """

    memory: Literal["newest", "first"] = ModelConfig.memory

    KINDS: ClassVar[Mapping[str, HeadKind]] = MEMORY_KINDS
    ADVANCE_READS: ClassVar[bool] = True

    @classmethod
    def of(cls, family: str, backbone: str, settings: ModelConfig) -> dict[str, Any]:
        return super().of(family, backbone, settings) | {"memory": settings.memory}

    @property
    def settings_read(self) -> tuple[str, ...]:
        return *super().settings_read, "model.memory"

    def contexts(self, prototypes: Prototypes = "video") -> tuple[Literal["video", "causal"], ...]:
        return ("causal",)

    def start(self, size: tuple[int, int], settings: PrototypeConfig) -> Held:
        width = self.head_form.width or self.size.head_width
        contexts = jnp.zeros((HELD + 1, self.num_classes, width), jnp.float32)
        return Held(contexts, jnp.zeros((), jnp.int32))

    def advance(
        self,
        state: Held,
        features: Described,
        age: Int32[Array, " S"],
        settings: PrototypeConfig,
        memory: Sequence[Tree] = (),
    ) -> tuple[Held, Float32[Array, "S K C"]]:
        """The list with a frame's contexts appended, and its mean."""
        appended = jnp.stack([*memory, features.context], 1)
        contexts = jnp.concatenate([state.contexts, appended], 1)[:, -(HELD + 1) :]
        count = jnp.minimum(jnp.where(age == 0, 0, state.count) + appended.shape[1], HELD + 1)
        there = jnp.arange(HELD + 1) >= HELD + 1 - count[:, None]  # The newest are last.
        total = jnp.sum(jnp.where(there[..., None, None], contexts, 0.0), 1)
        held = Held(contexts, count)
        if self.memory == "first":
            held = jax.tree.map(functools.partial(_of_first, age), held, state)
        return held, total / count[:, None, None]

    def segment(
        self, features: Described, memory: Sequence[Tree], referring: Bool[Array, " N"], contexts: Mapping[str, Tree]
    ) -> dict[str, Float32[Array, "N _ _ {self.num_classes}"]]:
        return {self.kind.title: self.classified(self.head.with_context(features.features, contexts["causal"]))}
