"""The interface of a segmentation head: four maps of an encoder -> features in front of a
classifier.

A head is one file, with its forms and their names, and one row of ``methods.image_head.HEADS``. Two
sources differ, so there are two forms: MMSegmentation's (M), for which checkpoints are public, and
that of the VSPW baselines (V), from which the papers' figures come.

Dimension key: N frames, H W their sides, h w a map, C channels, K classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from cffm_jax.models.foreign.layouts import DENSE_1X1
from cffm_jax.models.foreign.names import AS_RELEASED, RELEASED, HeadOrigin, Layer, MethodNames, mm_conv

Form = Literal["mmsegmentation", "vspw", "etc"]
STEMS: Mapping[Form, str] = {"vspw": "_vspw", "etc": "_plain"}
"""Ends of the names of the ResNets whose stem a form has."""
Maps = Sequence[Float[Array, "N _ _ _"]]


def sides(x: Float[Array, "N h w C"]) -> tuple[int, int]:
    """(h, w)."""
    return x.shape[1], x.shape[2]


class Head(nn.Module):
    """Attributes:
    width: channels of the features.
    dtype: compute type.
    """

    width: int
    dtype: jnp.dtype

    LEAST_SAMPLES: ClassVar[int] = 1
    """Samples of a batch that BatchNorm needs in training: 2 where a map is pooled to one value."""
    READS_REGIONS: ClassVar[bool] = False
    """Whether it reads the auxiliary head's logits."""

    def __call__(
        self, maps: Maps, regions: Float32[Array, "N _ _ K"] | None, train: bool = False
    ) -> Float[Array, "N h w _"]:
        """Features of the encoder's maps, in front of the classifier; ``regions`` are the auxiliary
        head's logits, if it reads them."""
        raise NotImplementedError


class TemporalHead(Head):
    """A head whose features are read beside a context of them, which may be the mean of several
    frames'."""

    def features(self, maps: Maps, train: bool = False) -> Float[Array, "N h w _"]:
        """Of each frame, read once for its context and as a target."""
        raise NotImplementedError

    def context(self, features: Float[Array, "N h w _"], regions: Float32[Array, "N _ _ K"] | None) -> Any:
        """Arrays [N, ...] of each frame, float32."""
        raise NotImplementedError

    def read(self, features: Float[Array, "N h w _"], context: Any, train: bool = False) -> Any:
        """What the features read of a context: arrays [N, ...]."""
        raise NotImplementedError

    def beside(self, features: Float[Array, "N h w _"], read: Any) -> Float[Array, "N h w _"]:
        """The features and what they read, in front of the last layers."""
        raise NotImplementedError

    def finished(self, x: Float[Array, "N h w _"], train: bool = False) -> Float[Array, "N h w _"]:
        """The last layers, if there are any."""
        return x

    def with_context(
        self, features: Float[Array, "N h w _"], context: Any, train: bool = False
    ) -> Float[Array, "N h w _"]:
        """Features of targets beside a context, in front of the classifier."""
        return self.finished(self.beside(features, self.read(features, context, train)), train)

    def __call__(
        self, maps: Maps, regions: Float32[Array, "N _ _ K"] | None, train: bool = False
    ) -> Float[Array, "N h w _"]:
        features = self.features(maps, train)
        return self.with_context(features, self.context(features, regions), train)


@dataclasses.dataclass(frozen=True)
class Auxiliary:
    """A head of C3 for a loss beside the head's own: 3x3 convolution, BatchNorm, ReLU, dropout of
    channels, classifier.

    Attributes:
      width: of the convolution; 0 for half of the head's.
      use_bias: of the convolution.
    """

    width: int = 0
    use_bias: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class HeadForm:
    """A form of a head.

    Attributes:
      module: (width, dtype) -> the head.
      names: other people's names for all but the encoder.
      auxiliary: the head beside it, if it has one.
      width: of the features; 0 for ``Size.head_width``.
      dropout: share of channels dropped before classifiers; None for the model's.
      elementwise: whether elements are dropped, not channels.
      dilates_second: of the encoder, see ``encoders.Size``.
    """

    module: type[Head]
    names: MethodNames
    auxiliary: Auxiliary | None = Auxiliary()
    width: int = 0
    dropout: float | None = None
    elementwise: bool = False
    dilates_second: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class HeadKind:
    """A head.

    Attributes:
      title: what the papers call it.
      forms: by name.
      fine: whether its logits have the first map's stride, not the last one's.
      output_stride: the encoder's.
    """

    title: str
    forms: dict[Form, HeadForm]
    fine: bool = False
    output_stride: int = 8


MM_AUXILIARY = (
    *mm_conv("auxiliary", "auxiliary_head.convs.0"),
    Layer("auxiliary_classifier", "auxiliary_head.conv_seg", DENSE_1X1),
)
MM_CLASSIFIER = Layer("classifier", "decode_head.conv_seg", DENSE_1X1)


def mm_names(
    family: str, title: str, layers: Sequence[Layer], *, classifier: str = "decode_head.conv_seg"
) -> MethodNames:
    """MMSegmentation's names of a head."""
    origin = HeadOrigin(names={"": f"MMSegmentation {title}"}, rules=AS_RELEASED)
    return MethodNames(
        prefix="decode_head.",
        layers=tuple(layers),
        origins={RELEASED: origin, "MMSegmentation": origin},
        families={family: ()},
        lengths={"num_classes": f"{classifier}.weight"},
    )


def vspw_names(
    family: str,
    title: str,
    layers: Sequence[Layer],
    *,
    classifier: str,
    prefix: str | tuple[str, ...] = "decoder.",
    dead: tuple[str, ...] = (),
    dead_arrays: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]] = lambda live: {},
) -> MethodNames:
    """The names of a head of the VSPW baselines."""
    origin = HeadOrigin({"": f"{title} of the VSPW baselines"}, AS_RELEASED, dead, {"form": "vspw"})
    return MethodNames(
        prefix=prefix,
        layers=tuple(layers),
        origins={RELEASED: origin},
        families={family: ()},
        lengths={"num_classes": f"{classifier}.weight"},
        dead_arrays=dead_arrays,
    )
