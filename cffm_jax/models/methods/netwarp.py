"""NetWarp (Gadde et al., ICCV 2017) as the VSPW baselines have it: PSPNet and OCRNet that add
features of the frame before, moved along optical flow, in two places.

Flow is RAFT's, from the frame to the one before, and is changed by a small network. The frame
before a video's first one is that one itself; in the release it is the second.

Dimension key: as in ``method``; h w the map of the logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32

from cffm_jax.config import ModelConfig
from cffm_jax.models import layers
from cffm_jax.models.criterion import Criterion
from cffm_jax.models.encoders import names as encoders
from cffm_jax.models.flow.raft import crop_flow, pad_frames
from cffm_jax.models.flow.warp import Grid, warp
from cffm_jax.models.foreign.layouts import single
from cffm_jax.models.foreign.names import Layer, conv_norm
from cffm_jax.models.heads.head import HeadKind, sides
from cffm_jax.models.losses import cross_entropy
from cffm_jax.models.methods.flow_head import FlowHead, heads
from cffm_jax.models.methods.image_head import ClipOutputs
from cffm_jax.models.methods.method import Batch, Tree
from cffm_jax.models.normalise import denormalise, normalise
from cffm_jax.models.products import counts

_OWN = (
    *(
        Layer(f"blend_{place}/{frame}", f"w{i}_{j}", single())
        for i, place in enumerate(("map", "features"))
        for j, frame in enumerate(("present", "before"))
    ),
    *conv_norm("flow_cnn/conv{number}", "flowcnn.conv{number}.0", "flowcnn.conv{number}.1"),
)
KINDS = heads("netwarp", "NetWarp", _OWN, "head")
"""One row a method."""


class Seen(NamedTuple):
    """What the next frame reads of one.

    Attributes:
      image: f32 in 0..255.
      flow: RAFT's features.
      last: the encoder's last map.
      features: the head's of it, unwarped, and what they read of their own context.
    """

    image: Float32[Array, "N H W 3"]
    flow: Float[Array, "N _ _ _"]
    last: Float[Array, "N h w C"]
    features: Tree


class Features(NamedTuple):
    """Of a frame: what the next one reads, the start of flow, and the auxiliary logits, if the head
    reads them."""

    seen: Seen
    flow_context: Float[Array, "N _ _ _"]
    regions: Float32[Array, "N _ _ K"] | None


class FlowCNN(nn.Module):
    """Changes flow by four convolutions of it and the frames; the last ends with a ReLU, so that
    what comes is not negative, as released."""

    @nn.compact
    def __call__(
        self,
        flow: Float32[Array, "N H W 2"],
        frames: Float32[Array, "N H W 3"],
        previous: Float32[Array, "N H W 3"],
        train: bool = False,
    ) -> Float32[Array, "N H W 2"]:
        """Frames are in 0..255, flow in pixels."""
        x = jnp.concatenate([flow, frames, previous, previous - frames], -1)
        for i, width in enumerate((16, 32, 2), 1):
            x = layers.ConvNorm(width, 3, name=f"conv{i}")(x, train)
        return layers.ConvNorm(2, 3, name="conv4")(jnp.concatenate([flow, x], -1), train)


class Blend(nn.Module):
    """a x + b warp(x'), with an a and a b for each channel, 1 and 0 at first."""

    grid: Grid

    @nn.compact
    def __call__(
        self, x: Float[Array, "N h w C"], before: Float[Array, "N h w C"], flow: Float32[Array, "N h w 2"]
    ) -> Float[Array, "N h w C"]:
        present = self.param("present", nn.initializers.ones, (x.shape[-1],))
        weight = self.param("before", nn.initializers.zeros, (x.shape[-1],))
        return present.astype(x.dtype) * x + weight.astype(x.dtype) * warp(before, flow, self.grid)


class NetWarp(FlowHead):
    PARTS: ClassVar[Mapping[str, str]] = {
        **FlowHead.PARTS,
        "flow_cnn": "flow's convolutions",
        "blend_map": "blend of maps",
        "blend_features": "blend of features",
    }
    KINDS: ClassVar[Mapping[str, HeadKind]] = KINDS

    @classmethod
    def create(cls, family: str, backbone: str, settings: ModelConfig) -> NetWarp:
        return cls(**cls.of(family, backbone, settings))

    @property
    def settings_read(self) -> tuple[str, ...]:
        return *super().settings_read, "model.receptive"  # The number of references.

    @property
    def reference_names(self) -> tuple[str, ...]:
        return tuple(f"reference{i}" for i in range(self.references))

    def setup(self) -> None:
        super().setup()
        self.flow_cnn = FlowCNN()
        self.blend_map, self.blend_features = Blend(self.grid), Blend(self.grid)

    # --- the stages

    def encode(self, frames: Float[Array, "N H W K"], train: bool = False) -> Features:
        maps, image = self.encode_stages(frames, train), denormalise(frames)
        regions = self.regions(maps, train) if self.head.READS_REGIONS else None
        padded = pad_frames(image)
        seen = Seen(image, self.flow.features(padded), maps[-1], self.own_features(maps[-1], regions, train))
        return Features(seen, self.flow.context(padded), regions)

    def own_features(
        self, last: Float[Array, "N h w C"], regions: Float32[Array, "N _ _ K"] | None, train: bool = False
    ) -> Tree:
        """The head's features of a map, and what they read of its own context."""
        features = self.head.features([last], train)
        return self.head.read(features, self.head.context(features, regions), train)

    def remember(self, features: Features) -> tuple[Tree, ...]:
        return (features.seen,)

    def segment(
        self, features: Features, memory: Sequence[Seen], referring: Bool[Array, " N"], contexts: Mapping[str, Tree]
    ) -> dict[str, Float32[Array, "N _ _ {self.num_classes}"]]:
        seen, before = features.seen, memory[-1]
        flow = self.flow.flow(seen.flow, features.flow_context, before.flow, self.flow_updates)
        flow = self.flow_cnn(crop_flow(flow, sides(seen.image)), seen.image, before.image)
        return {self.kind.title: self.warped(seen.last, features.regions, before.last, before.features, flow)}

    def warped(
        self,
        last: Float[Array, "N h w C"],
        regions: Float32[Array, "N _ _ K"] | None,
        last_before: Float[Array, "N h w C"],
        before: Tree,
        flow: Float32[Array, "N H W 2"],
        train: bool = False,
    ) -> Float32[Array, "N h w {self.num_classes}"]:
        """Logits of targets.

        Args:
          last: the encoder's last map.
          regions: the auxiliary logits, if the head reads them.
          last_before: the last map of the frames before.
          before: their ``own_features``.
          flow: from the frames to those before; resized to the map as it is, in pixels of frames.
        """
        flow = nearest(flow, sides(last))
        features = self.head.features([self.blend_map(last, last_before, flow)], train)
        x = self.head.beside(features, self.head.read(features, self.head.context(features, regions), train))
        x = self.blend_features(x, self.head.beside(last_before, before), flow)
        return self.classified(self.head.finished(x, train), train)

    # --- training

    def clip_outputs(self, clips: Float[Array, "B T H W K"], train: bool = False) -> ClipOutputs:
        """The logits of clips of two frames, and the auxiliary ones of both."""
        b, t, *shape = clips.shape
        maps = self.encode_stages(clips.reshape(b * t, *shape), train)
        regions = self.regions(maps, train)
        last_before, last = (maps[-1][i::t] for i in range(2))
        of_before, of_target = ((regions[i::t] if self.head.READS_REGIONS else None) for i in range(2))
        before, frames = denormalise(clips[:, 0]), denormalise(clips[:, 1])
        flow = self.flow_cnn(self.flow_to(clips[:, 0], clips[:, 1]), frames, before, train)
        own = self.own_features(last_before, of_before, train)
        logits = self.warped(last, of_target, last_before, own, flow, train)
        return ClipOutputs(logits, regions.reshape(b, t, *regions.shape[1:]))

    def loss(
        self, batch: Batch, frame_loss_weight: float, criterion: Criterion = cross_entropy
    ) -> tuple[Float32[Array, ""], dict[str, Float32[Array, ""]]]:
        """``target_loss``; ``frame_loss_weight`` is not read."""
        clips = normalise(batch["frames"], batch["size"], self.channels)
        logits, auxiliary = self.clip_outputs(clips, True)
        return self.target_loss(logits, auxiliary, batch["labels"], criterion)

    # --- counts

    def macs(self, height: int, width: int, *, prototypes: int, executed: bool) -> dict[str, int]:
        encoder = encoders.backbone_of(self.backbone).macs(self.size, height, width, len(self.channels))
        frame = jax.ShapeDtypeStruct((1, height, width, len(self.channels)), jnp.float32)

        def call(frame: jax.Array) -> jax.Array:
            def both(model: NetWarp, frame: jax.Array) -> jax.Array:
                features = model.encode(frame)
                return model.segment(features, (features.seen,), jnp.array([True]), {})[model.kind.title]

            return self.init_with_output(jax.random.key(0), frame, method=both)[0]

        flow = self.flow_macs(height, width, frames=1)
        return {**encoder, "flow": flow, "head": counts(call, frame).products - flow - sum(encoder.values())}


def nearest(x: Float32[Array, "N H W C"], size: tuple[int, int]) -> Float32[Array, "N {size[0]} {size[1]} C"]:
    """Resizes by taking the pixel floor(i n_in / n_out)."""
    rows, columns = (np.arange(n) * n_in // n for n, n_in in zip(size, sides(x), strict=True))
    return x[:, rows][:, :, columns]
