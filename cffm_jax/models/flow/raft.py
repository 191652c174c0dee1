"""RAFT, small and large: optical flow by updates that read an all-pairs correlation.

Source: Teed and Deng, "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow" (ECCV 2020),
with torchvision's names and settings. It is not trained here: BatchNorm keeps its running values.

Dimension key: N pairs of frames, H W their sides, h w = H/8 W/8, C channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Shaped

from cffm_jax.models.flow import names
from cffm_jax.models.flow.bilinear import pad, pixels, sample
from cffm_jax.models.flow.correlation import correlate, look_up
from cffm_jax.models.flow.raft_layers import SIZES, STRIDE, Encoder, MaskPredictor, RaftSize, Update
from cffm_jax.models.foreign.names import MethodNames
from cffm_jax.models.resize import resize_corners

LEAST = 128
"""Pixels that a side of the images has at least: the coarsest level of the correlation has to have
two."""
UPDATES = 12
Name = Literal["raft_small", "raft_large"]


class Raft(nn.Module):
    """Optical flow between frames, by torchvision's RAFT.

    A stream encodes each frame once: ``features`` of every frame, ``context`` of those from which
    flow starts, and ``flow`` of two frames from these.

    Attributes:
      name_of_size: a key of ``SIZES``.
      dtype: of the convolutions; correlation, flow and norms are in float32.
    """

    if TYPE_CHECKING:  # Flax adds it to each of its modules, which its annotations do not tell.

        def __hash__(self) -> int: ...

    name_of_size: str = "raft_small"
    dtype: jnp.dtype = jnp.dtype("float32")

    BORROWED: ClassVar[tuple[str, ...]] = ()
    foreign_names: ClassVar[MethodNames] = names.NAMES
    """torchvision's names for its weights."""

    @property
    def public_name(self) -> str:
        """The name that ``create_model`` takes."""
        return self.name_of_size

    @property
    def size(self) -> RaftSize:
        return SIZES[self.name_of_size]

    def setup(self) -> None:
        size, dtype = self.size, self.dtype
        self.feature_encoder = Encoder(size, size.features, "instance", dtype)
        self.context_encoder = Encoder(size, size.hidden + size.context, size.context_norm, dtype)
        self.update_block = Update(size, dtype)
        if size.convex:
            self.mask_predictor = MaskPredictor(size.head, dtype)

    def __call__(
        self, image1: Float[Array, "N H W 3"], image2: Float[Array, "N H W 3"], updates: int = UPDATES
    ) -> Float32[Array, "{updates} N H W 2"]:
        """The flow from the first images to the second after each update, in pixels, (x, y).

        Args:
          image1: RGB in -1..1.
          image2: likewise.
          updates: how many; static.

        Raises:
          ValueError: sides of the images that are no multiples of 8, or less than 128.
        """
        require_size(image1)
        first, second = jnp.split(self.features(jnp.concatenate([image1, image2])), 2)
        every, _ = self._updated(first, self.context(image1), second, updates, every=True)
        return every

    def features(self, image: Float[Array, "N H W 3"]) -> Float[Array, "N H//8 W//8 {self.size.features}"]:
        """What is correlated of an image in -1..1; ValueError as for a call."""
        require_size(image)
        return self.feature_encoder(image.astype(self.dtype))

    def context(
        self, image: Float[Array, "N H W 3"]
    ) -> Float[Array, "N H//8 W//8 {self.size.hidden+self.size.context}"]:
        """What the updates read of an image from which flow starts; ValueError as for a call."""
        require_size(image)
        return self.context_encoder(image.astype(self.dtype))

    def flow(
        self,
        features1: Float[Array, "N h w C"],
        context1: Float[Array, "N h w _"],
        features2: Float[Array, "N h w C"],
        updates: int = UPDATES,
    ) -> Float32[Array, "N 8*h 8*w 2"]:
        """The flow after the last update, in pixels, (x, y).

        Args:
          features1: of the image where flow starts.
          context1: of the same.
          features2: of the image where it ends.
          updates: how many; static.
        """
        _, last = self._updated(features1, context1, features2, updates, every=False)
        return last

    def flow_between(
        self, current: Shaped[Array, "N H W 3"], previous: Shaped[Array, "N H W 3"], updates: int = UPDATES
    ) -> Float32[Array, "N H W 2"]:
        """The flow from one frame to another, both in 0..255, of any size."""
        _, height, width, _ = current.shape
        first, second = pad_frames(current), pad_frames(previous)
        features1, features2 = jnp.split(self.features(jnp.concatenate([first, second])), 2)
        return crop_flow(self.flow(features1, self.context(first), features2, updates), (height, width))

    def _updated(
        self, features1: jax.Array, context1: jax.Array, features2: jax.Array, updates: int, *, every: bool
    ) -> tuple[jax.Array, jax.Array]:
        """The enlarged flow after every update, if asked for, and that after the last, if not."""
        n, h, w, _ = features1.shape
        volumes = correlate(features1, features2, self.size.radius)
        state, context = jnp.split(context1, [self.size.hidden], -1)
        start, context = pixels(h, w), nn.relu(context)
        nothing = jnp.zeros((n, 0, 0, 2))

        def update(module: Raft, carry: tuple[jax.Array, jax.Array], _: None):
            state, flow = carry
            flow = jax.lax.stop_gradient(flow)
            correlation = look_up(volumes, start + flow, module.size.radius)
            state, change = module.update_block(state, context, correlation, flow)
            flow += change
            return (state, flow), module.enlarge(flow, state) if every else nothing

        loop = nn.scan(update, variable_broadcast="params", split_rngs={"params": False}, length=updates)
        (state, flow), flows = loop(self, (nn.tanh(state), jnp.zeros((n, h, w, 2))), None)
        return flows, nothing if every else self.enlarge(flow, state)

    def enlarge(self, flow: Float32[Array, "N h w 2"], state: Float[Array, "N h w _"]) -> Float32[Array, "N 8*h 8*w 2"]:
        """Flow of the frames' size from that at stride 8."""
        if self.size.convex:
            return convex(STRIDE * flow, self.mask_predictor(state))
        _, h, w, _ = flow.shape
        return resize_corners(STRIDE * flow, (STRIDE * h, STRIDE * w))


def convex(flow: Float32[Array, "N h w 2"], mask: Float32[Array, "N h w 9 8 8"]) -> Float32[Array, "N 8*h 8*w 2"]:
    """Means of 3x3 neighbours, zeros outside, by the softmax of their weights for each pixel."""
    n, h, w, _ = flow.shape
    padded = jnp.pad(flow, ((0, 0), (1, 1), (1, 1), (0, 0)))
    neighbours = [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    means = jnp.einsum("nhwkij,nhwkc->nhiwjc", jax.nn.softmax(mask, 3), jnp.stack(neighbours, 3), precision="highest")
    return means.reshape(n, STRIDE * h, STRIDE * w, 2)


def require_size(image: Float[Array, "N H W 3"]) -> None:
    """ValueError for sides that RAFT cannot take."""
    height, width = image.shape[1:3]
    if height % STRIDE or width % STRIDE or min(height, width) < LEAST:
        needed = f"sides have to be multiples of {STRIDE}, and {LEAST} or more"
        raise ValueError(f"images of {height}x{width}: {needed}; pad them, as flow_between does")


def _margins(height: int, width: int) -> tuple[tuple[int, int], ...]:
    """Pixels before and after, along y and x, that padding adds."""
    more = (max(-n % STRIDE, LEAST - n) for n in (height, width))
    return tuple((each // 2, each - each // 2) for each in more)


def pad_frames(frames: Shaped[Array, "N H W 3"]) -> Float32[Array, "N _ _ 3"]:
    """Frames in 0..255, of any size, to images in -1..1: padded with black on both sides, the odd
    pixel right and below, to multiples of 8, or to 128 where that is more."""
    margins = ((0, 0), *_margins(*frames.shape[1:3]), (0, 0))
    return jnp.pad(frames.astype(jnp.float32), margins) / 127.5 - 1


def crop_flow(flow: Float32[Array, "N _ _ 2"], size: tuple[int, int]) -> Float32[Array, "N {size[0]} {size[1]} 2"]:
    """The flow of frames of this (height, width) from that of the padded ones."""
    (top, _), (left, _) = _margins(*size)
    return flow[:, top : top + size[0], left : left + size[1]]


def crop_map(
    x: Float[Array, "N _ _ C"], frame: tuple[int, int], size: tuple[int, int]
) -> Float32[Array, "N {size[0]} {size[1]} C"]:
    """A map of padded frames, at stride 8, at the positions of a map of the frames themselves, of
    sides ``size``; bilinear."""
    at = []
    for n, length, (before, _), most in zip(frame, size, _margins(*frame), x.shape[1:3], strict=True):
        pixels_of = (np.arange(length) + 0.5) * (n / length) + before
        at.append(np.clip(pixels_of / STRIDE - 0.5, 0, most - 1).astype(np.float32))
    positions = np.stack(np.meshgrid(*at, indexing="ij")[::-1], -1).reshape(1, -1, 2)
    found = sample(pad(x.astype(jnp.float32)), jnp.broadcast_to(positions, (len(x), *positions.shape[1:])))
    return found.reshape(len(x), *size, -1)
