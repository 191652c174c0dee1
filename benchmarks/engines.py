"""What the rows of ``inference.py`` run: ways from frames to masks, each from the host's memory and from files.

Dimension key: n masks of a call, T frames of a clip, R references, S streams, H W the model's input, H0 W0 the original
frames, h w the map at stride 8, P prototypes, C channels.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from model import random_references, whole

from cffm_jax.config import Config, DataConfig, EvalConfig, ModelConfig
from cffm_jax.data import clips, decode, evaluation_frames
from cffm_jax.data.class_names import VSPW
from cffm_jax.data.layouts.video import Video
from cffm_jax.data.layouts.vspw import CODING
from cffm_jax.inference import streaming
from cffm_jax.inference.whole_videos import VideoSegmenter
from cffm_jax.media.frame import Selection
from cffm_jax.media.source import open_source
from cffm_jax.models.create import build_model
from cffm_jax.models.methods.method import Method
from cffm_jax.models.normalise import normalise
from cffm_jax.models.resize import resize_bilinear
from cffm_jax.models.variables import variable_shapes
from cffm_jax.training.speed import device_peak

Masks = list[tuple[int, np.ndarray]]
"""Masks u8[H0, W0], each with the number of its frame."""
CHUNKS = 10_000
"""More than any row comes to: files are named again and again, as a video's that does not end."""


class Scene(NamedTuple):
    """What all rows of a run are given.

    Attributes:
      folder: it holds frames/*.jpg, with --video video.mp4, and the masks that were made clip by clip.
      size: (H0, W0).
      dtype: compute type.
      batch: streams of a step, frames of a chunk or of a batch, as the row has it.
    """

    folder: Path
    size: tuple[int, int]
    dtype: str
    batch: int

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(sorted(str(path) for path in (self.folder / "frames").glob("*.jpg")))

    def read(self, number: int) -> np.ndarray:
        """A frame u8[H, W, 3] out of its file, as the model sees it."""
        files = self.files
        return evaluation_frames.load_evaluation_frame(files[number % len(files)], self.size)[0]


class Engine(NamedTuple):
    """A way from frames to masks, compiled.

    Attributes:
      masks: n of a call.
      call: the model alone: frames in the host's memory -> masks in the host's memory; the frames are the same ones.
      queue: a call whose frames are on the device, whose masks stay there, and that is not waited for.
      wait: waits for what ``queue`` gave, and thereby for all calls before it.
      files: from files: masks in the order of frames as they come, without end; None where there is no such way.
      video: the same from a video file.
      reference: clip by clip alone: number of a frame, and whether its prototypes are causal -> its mask, how far each
        pixel's best logit lies above the next, f32[H0, W0], and the largest logit.
      causal: whether its prototypes are.
      peak: bytes that were in use on the device at most.
    """

    masks: int
    call: Callable[[], np.ndarray]
    queue: Callable[[], Any]
    wait: Callable[[Any], Any] = jax.block_until_ready
    files: Callable[[], Iterator[Masks]] | None = None
    video: Callable[[], Iterator[Masks]] | None = None
    reference: Callable[[int, bool], tuple[np.ndarray, np.ndarray, float]] | None = None
    causal: bool = False
    peak: Callable[[], int | None] = device_peak


class Network(NamedTuple):
    """Model, weights, settings, and prototypes f32[P, C] that stand for a video's."""

    model: Method
    variables: dict[str, Any]
    config: Config
    prototypes: np.ndarray | None


def network(name: str, scene: Scene) -> Network:
    config = Config(
        model=ModelConfig(name, len(VSPW), dtype=scene.dtype),
        data=DataConfig(frame_size=scene.size),
        eval=EvalConfig(chunk=scene.batch),
    )
    model = build_model(config.model)
    given = None
    if model.reads_prototypes:
        given = np.random.default_rng(0).standard_normal((config.prototypes.count, model.width)).astype(np.float32)
    return Network(model, jax.device_put(drawn_variables(model)), config, given)


def drawn_variables(model: Method) -> dict[str, Any]:
    """Random weights, on the host. Not as training starts: those take longer to make."""
    rng = np.random.default_rng(0)

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if len(leaf.shape) < 2:
            return np.full(leaf.shape, path[-1].key in ("scale", "var"), leaf.dtype)
        weights = rng.standard_normal(leaf.shape, np.float32) / np.sqrt(np.prod(leaf.shape[:-1]), dtype=np.float32)
        if any(step.key.endswith("classifier") for step in path):
            weights -= weights.mean(0)  # What is the same in all features would choose the class everywhere.
        return weights

    return jax.tree_util.tree_map_with_path(draw, variable_shapes(model))


def clip_by_clip(net: Network, scene: Scene) -> Engine:
    """As the release: the target's whole clip through everything, batch 1, full-size logits, their arg-max."""
    model, variables, config, given = net
    references = config.data.offsets if model.reference_names else ()
    first = np.stack([scene.read(t) for t in range(len(references) + 1)])[None]
    size, input_size = scene.size, first.shape[2:4]

    @jax.jit
    def logits_of(variables: dict[str, Any], clips: jax.Array, prototypes: jax.Array | None) -> jax.Array:
        given = {} if prototypes is None else {"prototypes": prototypes}
        return model.apply(variables, normalise(clips), **given)

    def full_size(logits: jax.Array) -> jax.Array:
        return resize_bilinear(resize_bilinear(logits, input_size), size)

    @jax.jit
    def masks_of(logits: jax.Array) -> jax.Array:
        return full_size(logits).argmax(-1).astype(jnp.uint8)

    @jax.jit
    def judged(logits: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        full = full_size(logits)
        best = full.argmax(-1)
        others = jnp.where(jnp.arange(full.shape[-1]) == best[..., None], -jnp.inf, full)
        return best.astype(jnp.uint8)[0], (full.max(-1) - others.max(-1))[0], jnp.abs(full).max()

    @jax.jit
    def causal_of(variables: dict[str, Any], frames: jax.Array) -> jax.Array:
        bound = model.bind(variables)
        features = bound.encode(normalise(frames))
        running = jax.tree.map(lambda x: x[None], model.start(input_size, config.prototypes))
        for t in range(len(frames)):
            frame = jax.tree.map(lambda x, t=t: x[t : t + 1], features)
            running, prototypes = bound.advance(running, frame, jnp.full(1, t), config.prototypes)
        return prototypes[0]

    prototypes = None if given is None else given[None]
    logits_of = logits_of.lower(variables, first, prototypes).compile()
    masks_of = masks_of.lower(logits_of.out_info).compile()

    def clip(target: int) -> np.ndarray:
        wanted = (*(clips.reference_indices(target, references) or ()), target) if references else (target,)
        return np.stack([scene.read(t) for t in wanted])[None]

    def from_files() -> Iterator[Masks]:
        for target in itertools.count(len(references)):
            yield [(target, np.asarray(masks_of(logits_of(variables, clip(target), prototypes)))[0])]

    def reference(target: int, causal: bool) -> tuple[np.ndarray, np.ndarray, float]:
        own = prototypes
        if causal:
            own = causal_of(variables, np.stack([scene.read(t) for t in range(target + 1)]))[None]
        mask, margin, largest = jax.device_get(judged(logits_of(variables, clip(target), own)))
        return mask, margin, float(largest)

    there = jax.device_put(first)
    return Engine(
        1,
        lambda: np.asarray(masks_of(logits_of(variables, first, prototypes))),
        lambda: masks_of(logits_of(variables, there, prototypes)),
        files=from_files,
        reference=reference,
    )


def papers_protocol(net: Network, scene: Scene) -> Engine:
    """Batches of 2 (or as many as the row has), the references' features in memory."""
    model, variables, config, given = net
    frames = np.stack([scene.read(t) for t in range(scene.batch)])
    references = random_references(model, config, frames.shape)
    prototypes = None if given is None else jnp.stack([given] * scene.batch)
    arguments = (variables, frames, references, prototypes)
    compiled = jax.jit(functools.partial(whole, model, scene.size)).lower(*arguments).compile()
    there = jax.device_put(arguments)
    return Engine(scene.batch, lambda: np.asarray(compiled(*arguments)), lambda: compiled(*there))


def offline(net: Network, scene: Scene) -> Engine:
    """``VideoSegmenter``: a chunk of frames in a call, the model's own masks alone."""
    model, variables, config, given = net
    source = types.SimpleNamespace(of=lambda video: given) if model.reads_prototypes else None
    segmenter = VideoSegmenter(model, config, source, parts=False)
    frames = np.stack([scene.read(t) for t in range(scene.batch)])[None]
    compiled = segmenter.lower(variables, scene.size).compile()
    state = segmenter.engine.start(frames.shape[2:4])
    prototypes = None if given is None else given[None]

    def masks_of(frames: np.ndarray | jax.Array) -> jax.Array:
        nonlocal state
        state, masks = compiled(variables, state, frames, prototypes)
        return masks[segmenter.rows[0]]

    def from_files() -> Iterator[Masks]:
        files = scene.files * -(-CHUNKS * scene.batch // len(scene.files))
        video = Video("video", files[: CHUNKS * scene.batch], (), CODING)
        for chunk in segmenter.segment(variables, [video], labels=False):
            yield [(chunk.start + i, mask) for i, mask in enumerate(chunk.predictions)]

    there = jax.device_put(frames)
    return Engine(scene.batch, lambda: np.asarray(masks_of(frames))[0], lambda: masks_of(there), files=from_files)


def streams(net: Network, scene: Scene) -> Engine:
    """``StreamSegmenter``: a frame of each stream in a step; of CFFM++ with causal prototypes."""
    model, variables, config, _ = net
    count = scene.batch
    segmenter = streaming.StreamSegmenter(model, config, scene.size, count)
    frames = np.stack([scene.read(0)] * count)
    state, weights = segmenter.start(), segmenter.step.suited(variables)
    step = segmenter.step.lower(weights, state, frames).compile()

    def masks_of(frames: np.ndarray | jax.Array) -> jax.Array:
        nonlocal state
        state, masks = step(weights, state, frames)
        return masks

    def alone(pictures: Iterator[np.ndarray]) -> Iterator[Masks]:
        # As predict.py: on an accelerator reading and writing overlap with it.
        ahead = 0 if jax.default_backend() == "cpu" else 2
        masks = streaming.stream(model, variables, config, pictures, ahead=ahead)
        return ([numbered] for numbered in enumerate(masks))

    def together(pictures: Sequence[Iterator[np.ndarray]]) -> Iterator[Masks]:
        own = segmenter.start()
        for number in itertools.count():
            fitted = [evaluation_frames.fit_frame(next(each), config.data.frame_size) for each in pictures]
            own, masks = step(variables, own, np.stack(fitted))
            yield [(number, mask) for mask in np.asarray(masks)]

    def of(pictures: Callable[[], Iterator[np.ndarray]]) -> Iterator[Masks]:
        return alone(pictures()) if count == 1 else together([pictures() for _ in range(count)])

    def from_jpeg() -> Iterator[np.ndarray]:
        return map(decode.read_frame, itertools.cycle(scene.files))

    def from_video() -> Iterator[np.ndarray]:
        while True:
            with contextlib.ExitStack() as stack:
                source = stack.enter_context(open_source((str(scene.folder / "video.mp4"),), Selection(), 15.0))
                yield from (frame.pixels for frame in source.frames)

    video = functools.partial(of, from_video) if (scene.folder / "video.mp4").exists() else None
    there = jax.device_put(frames)
    return Engine(
        count,
        lambda: np.asarray(masks_of(frames)),
        lambda: masks_of(there),
        files=functools.partial(of, from_jpeg),
        video=video,
        causal=model.reads_prototypes,
    )


ENGINES = {"clip": clip_by_clip, "papers": papers_protocol, "offline": offline, "streams": streams}
