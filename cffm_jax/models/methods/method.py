"""The interface of a method of video semantic segmentation.

A method is one subclass of ``Method`` in one file, and one row of ``models.create.METHODS``.
Training, evaluation, streams, export, conversion and counts know this interface alone: none of them
asks which method it has.

At inference frames pass four stages, which ``inference.engine`` calls:

    features = encode(frames)                            every frame on its own, all at once
    memory = remember(features)                          kept for the frames to come, in a ring
    state, context = advance(state, features, age, ...)  in the order of time, for what is recurrent
    logits = segment(features, memory, referring, contexts)

Dimension key: N frames, B clips, T frames of a clip (references oldest first, target last), R
references, S streams, H W sides of the input, s stride of the logits, h w the map at stride 8, K
classes, C channels, P prototypes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32

from cffm_jax.channels import COLOURS, Channels
from cffm_jax.config import ModelConfig, PrototypeConfig
from cffm_jax.models import layers
from cffm_jax.models.criterion import Criterion
from cffm_jax.models.distillation import FrameOutputs
from cffm_jax.models.encoders import names as encoders
from cffm_jax.models.encoders.names import ENCODER
from cffm_jax.models.foreign.names import NO_NAMES, MethodNames
from cffm_jax.models.losses import Logits, clip_loss, cross_entropy
from cffm_jax.models.normalise import normalise

Tree = Any
"""Arrays in nested tuples; an axis that all of them have leads."""
Prototypes = Literal["video", "causal", "both"]
Batch = Mapping[str, jax.Array]
"""A training batch: frames u8[B, T, H, W, 3] (f32[B, T, H, W, K] of other channels),
labels u8[B, L, H, W] of the last L of them, size
i32[B, 2] without padding, and where the method reads them prototypes f32[B, P, C], or a teacher's
outputs of all frames, taught_features [B, T, h, w, D] and taught_logits f32[B, T, h, w, K]."""


class Method(nn.Module):
    """The interface, and the encoder that all methods have.

    Attributes:
      backbone: one of ``encoders.names()``.
      num_classes: K.
      norm_epsilons: of the encoder's norms: those of embeddings and reductions, those of blocks and
        stages.
      dropout: share of channels dropped before each classifier.
      drop_path: the encoder's largest drop path rate.
      dtype: compute type; parameters, norms, softmax and logits are float32.
      depths: blocks of the encoder's stages; () as the backbone has.
      channels: of the frames.
      remat: what the backward pass computes anew, see ``layers.rematerialised``.
    """

    backbone: str
    num_classes: int
    norm_epsilons: tuple[float, float]
    dropout: float = ModelConfig.dropout
    drop_path: float = ModelConfig.drop_path
    dtype: jnp.dtype = jnp.float32
    depths: tuple[int, ...] = ()
    remat: layers.Remat = "none"
    channels: Channels = COLOURS

    if TYPE_CHECKING:  # Flax adds it to each of its modules, which its annotations do not tell.

        def __hash__(self) -> int: ...

    PARTS: ClassVar[Mapping[str, str]] = {ENCODER: "encoder"}
    """First names of the parameters' paths (without a block's number) -> what messages call
    them."""
    CLASSIFIERS: ClassVar[tuple[str, ...]] = ()
    """Parts that start afresh where weights are of another number of classes."""
    OPTIONS: ClassVar[Mapping[str, str]] = {"backbone": "--model.name", "depths": "--model.depths"}
    """Attributes that the parameters' shapes depend on -> the option that sets them."""

    BORROWED: ClassVar[tuple[str, ...]] = ()
    """First names of the parameters of other networks, such as optical flow's: they come from files
    of their own, are not trained, and do not count as its own."""

    READS_CLIPS: ClassVar[bool] = False
    """Whether training reads other frames of a clip although segmenting reads no references."""

    LEARNS: ClassVar[bool] = False
    """Whether training can read a teacher's outputs, see ``TrainConfig.teacher``."""

    ADVANCE_READS: ClassVar[bool] = False
    """Whether ``advance`` reads the memory of each frame's references."""

    foreign_names: ClassVar[MethodNames] = NO_NAMES
    """Other people's names for its weights beside the encoder's."""

    @classmethod
    def all_foreign_names(cls) -> tuple[MethodNames, ...]:
        """Those of all forms that the method has."""
        return (cls.foreign_names,) if cls.foreign_names.families else ()

    @classmethod
    def shared(cls, backbone: str, settings: ModelConfig) -> dict[str, Any]:
        """The attributes above, for ``create``."""
        return {
            "backbone": backbone,
            "num_classes": settings.num_classes,
            "norm_epsilons": tuple(settings.norm_epsilons) or encoders.size_of(backbone).norm_epsilons,
            "depths": settings.depths,
            "dropout": settings.dropout,
            "drop_path": settings.drop_path,
            "dtype": jnp.dtype(settings.dtype),
        }

    @classmethod
    def create(cls, family: str, backbone: str, settings: ModelConfig) -> Method:
        """The method for a backbone, as ``settings`` say, which are sound.

        Args:
          family: the method's name, a key of ``models.create.METHODS``.
          backbone: one of ``encoders.names()``.
          settings: the other fields; ``name`` is not read.
        """
        raise NotImplementedError

    def setup(self) -> None:
        self.encoder = encoders.make_encoder(
            self.backbone, self.norm_epsilons, self.drop_path, self.dtype, self.depths, self.remat, self.output_stride,
            self.dilates_second,
        )  # fmt: skip

    # --- what it is

    @property
    def output_stride(self) -> int:
        """The encoder's, where it has such a one, see ``encoders.size_of``."""
        return 32

    @property
    def dilates_second(self) -> bool:
        """The encoder's, see ``encoders.Size``."""
        return False

    @property
    def input_multiple(self) -> int:
        """Of which the sides of frames are multiples."""
        return 32

    @property
    def stride(self) -> int:
        """s, of the logits."""
        return 4

    @property
    def least_samples(self) -> int:
        """Clips, or frames, that a training batch holds at least, or each part of it."""
        return 1

    @property
    def templated(self) -> Method:
        """The same with so few blocks that it is traced fast, and all kinds of them are there."""
        depths = encoders.backbone_of(self.backbone).template_depths
        return self.clone(depths=depths) if depths and not self.depths else self

    @property
    def family(self) -> str:
        """Its name in ``models.create.METHODS``."""
        raise NotImplementedError

    @property
    def public_name(self) -> str:
        """The name that ``create_model`` takes."""
        return f"{self.family}_{self.backbone}"

    @property
    def settings_resolved(self) -> dict[str, Any]:
        """Fields of ``ModelConfig`` that may leave a number to the method or its backbone -> the
        number."""
        return {
            "norm_epsilons": self.norm_epsilons,
            "depths": encoders.size_of(self.backbone, self.depths).depths,
        }

    @property
    def settings_read(self) -> tuple[str, ...]:
        """Settings that it reads, of those that not all methods read (``rules.About.part``), by
        dotted name.

        A dot at the end stands for a section. The others change nothing.
        """
        return ("model.drop_path",) if encoders.backbone_of(self.backbone).drops_paths else ()

    @property
    def reference_names(self) -> tuple[str, ...]:
        """Names of the R past frames that a target reads the memory of, oldest first; () for
        none."""
        return ()

    @property
    def clip_frames(self) -> int:
        """T: a training clip has the target and so many less one references."""
        return len(self.reference_names) + 1

    def contexts(self, prototypes: Prototypes = "video") -> tuple[Literal["video", "causal"], ...]:
        """Names of the arrays that targets are segmented with beside the memory of past frames, see
        ``segment``: "causal" where ``advance`` gives it, "video" where prototypes of the whole
        video are given.

        ``prototypes`` as ``EvalConfig.prototypes``: of methods with prototypes, which of them are
        wanted.
        """
        return ()

    @property
    def teaches(self) -> bool:
        """Whether it can be a teacher: it segments each frame on its own."""
        return not self.reference_names and not self.contexts()

    @property
    def reads_prototypes(self) -> bool:
        """Whether it can be given prototypes of whole videos."""
        return "video" in self.contexts("video")

    def rows(self, prototypes: Prototypes = "video") -> tuple[str, ...]:
        """Names of the logits that ``segment`` gives, best first: the method's own, then those of
        its parts.

        ``prototypes`` as for ``contexts``.
        """
        raise NotImplementedError

    # --- the stages

    def encode_stages(
        self, frames: Float[Array, "N H W K"], train: bool = False
    ) -> tuple[Float[Array, "N _ _ _"], ...]:
        """The encoder's four maps: [N, H/s, W/s, C_s] for s = 4, 8, 16, 32, or the output stride
        where that is less."""
        self.require_sides(frames)
        return self.encoder(frames, train)

    def require_sides(self, frames: Float[Array, "N H W K"]) -> None:
        """ValueError for frames that the encoder cannot take."""
        _, h, w, _ = frames.shape
        if h % self.input_multiple or w % self.input_multiple:
            raise ValueError(f"frames are {h}x{w}: both sides must be multiples of {self.input_multiple}")

    def encode(self, frames: Float[Array, "N H W K"], train: bool = False) -> Tree:
        """Features [N, ...] of normalised frames; each frame on its own, so that none is encoded
        twice."""
        raise NotImplementedError

    def remember(self, features: Tree) -> tuple[Tree, ...]:
        """Keeps of frames the arrays that later targets read: for each of the R references that a
        frame may become arrays [N, ...].

        One entry stands for all references where they read the same.
        """
        return ()

    def start(self, size: tuple[int, int], settings: PrototypeConfig) -> Tree:
        """Zeros of the recurrent state of one stream, for inputs of size (H, W); () for a method
        without any.

        Raises:
          InputError: frames of that size are too small for it.
        """
        return ()

    def advance(
        self,
        state: Tree,
        features: Tree,
        age: Int32[Array, " S"],
        settings: PrototypeConfig,
        memory: Sequence[Tree] = (),
    ) -> tuple[Tree, Tree]:
        """The next recurrent state of S streams, and the context that their present frames are
        segmented with.

        Args:
          state: arrays [S, ...]; where ``age`` is 0 whatever it holds has to be taken for nothing.
          features: of a frame of each stream.
          age: how many frames of its video a stream has seen.
          settings: of the state.
          memory: with ``ADVANCE_READS``, for each of the R references arrays [S, ...], as
            ``remember`` gave them.

        Returns:
          The state, and arrays [S, ...].
        """
        raise NotImplementedError

    def segment(
        self,
        features: Tree,
        memory: Sequence[Tree],
        referring: Bool[Array, " N"],
        contexts: Mapping[str, Tree],
    ) -> dict[str, Float32[Array, "N _ _ {self.num_classes}"]]:
        """Logits of N targets.

        Args:
          features: the targets' own.
          memory: for each of the R references arrays [N, ...], as ``remember`` gave them.
          referring: False for the first frames of a video, whose references are the frame itself.
          contexts: "video" -> prototypes f32[N, P, C] of the whole video; "causal" -> what
            ``advance`` gave, [N, ...].

        Returns:
          Those at stride s for each of the ``rows``.
        """
        raise NotImplementedError

    def prototype_tokens(self, frames: Float[Array, "N H W K"]) -> Float[Array, "N H//8 W//8 C"]:
        """The features that prototypes are clustered of, of a method that has such."""
        raise NotImplementedError

    def frame_outputs(self, frames: Float[Array, "N H W K"]) -> FrameOutputs:
        """What a method learns by whose teacher this is, of normalised frames."""
        raise NotImplementedError

    # --- training

    def loss(
        self, batch: Batch, frame_loss_weight: float, criterion: Criterion = cross_entropy
    ) -> tuple[Float32[Array, ""], dict[str, Float32[Array, ""]]]:
        """The training loss of a batch and its parts by name, ``clip_loss`` unless a method has
        another; ``criterion``: that of a set of logits.

        Needs a "dropout" key and mutable "batch_stats".
        """
        outputs = self.clip_outputs(normalise(batch["frames"], batch["size"], self.channels), train=True)
        loss, parts = clip_loss(outputs, batch["labels"], frame_loss_weight, criterion)
        return loss, {"clip_loss": parts.clip, "frame_loss": parts.frames}

    def clip_outputs(self, clips: Float[Array, "B T H W K"], train: bool = False) -> Logits:
        """The logits of normalised clips, oldest frame first, and of their frames alone."""
        raise NotImplementedError

    def is_trained(self, name: str) -> bool:
        """Whether training updates the parameters of this first name; all others are frozen."""
        return name not in self.BORROWED

    def training_offsets(self, offsets: Sequence[int]) -> tuple[int, ...]:
        """Offsets of the references that a training clip holds, oldest first; () where targets
        alone are read."""
        return tuple(offsets)

    @property
    def base(self) -> Method | None:
        """The trained method that this one starts from, where it cannot start from an encoder
        alone."""
        return None

    @property
    def fresh_parts(self) -> tuple[str, ...] | None:
        """``PARTS`` that may start at random beside trained weights; None: all but the encoder."""
        return None

    @staticmethod
    def rate_group(path: Sequence[str]) -> Literal["encoder", "head"]:
        """The learning-rate group of a parameter: the head's rate is ``optim.head_multiplier``
        times the encoder's."""
        return "encoder" if path[0] == ENCODER else "head"

    def decays(self, path: Sequence[str]) -> bool:
        """Whether weight decay applies: everywhere but in the encoder's norms and the layer scales
        of its branches."""
        return path[0] != ENCODER or encoders.backbone_of(self.backbone).decays("/".join(path[1:]))

    # --- counts

    def macs(self, height: int, width: int, *, prototypes: int, executed: bool) -> dict[str, int]:
        """Multiply-accumulates of one target by part; its references are encoded already.

        Args:
          height: of the input, a multiple of ``input_multiple``.
          width: likewise.
          prototypes: P.
          executed: count what the engine computes, not what the papers' equations say; see the
            module ``macs``.
        """
        raise NotImplementedError

    def elements(self, height: int, width: int, *, prototypes: int) -> int:
        """Counts what the papers add to the products of ``macs``, see ``macs.ELEMENTWISE``."""
        raise NotImplementedError

    def training_macs(self, height: int, width: int, *, prototypes: int) -> int:
        """Multiply-accumulates of a training step for one clip, forward and backward, as executed;
        the backward pass of what is trained counts twice its forward pass."""
        raise NotImplementedError
