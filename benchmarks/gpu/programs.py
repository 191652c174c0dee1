"""Every program of the package, lowered for devices by shapes alone: no weights are drawn, no device need be there.

A program is what the package itself compiles: the engines' own ``lower``, the run's own training step.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, SingleDeviceSharding

from cffm_jax.config import Config, DataConfig, EvalConfig, ModelConfig, PrototypeConfig, TrainConfig
from cffm_jax.data.evaluation_frames import evaluation_size
from cffm_jax.export.stablehlo import exported_step
from cffm_jax.inference import labelled_frames
from cffm_jax.inference.streaming import StreamSegmenter
from cffm_jax.inference.tiles import Tiling
from cffm_jax.inference.whole_videos import VideoSegmenter
from cffm_jax.models.create import build_model
from cffm_jax.models.kmeans import cluster
from cffm_jax.models.variables import flatten, variable_shapes
from cffm_jax.training.optim import make_optimizer
from cffm_jax.training.setup import step_of
from cffm_jax.training.sharding import batch_sharded, mesh_of, replicated, state_shapes


class Program(NamedTuple):
    """A program by its name in ``programs``; ``lower`` traces it, which takes seconds."""

    name: str
    lower: Callable[[], jax.stages.Lowered]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What the programs are compiled for; the defaults are the papers' (VSPW).

    Attributes:
      frame: (H0, W0) of videos and streams, which are not resized but rounded up to multiples of 32.
      crop: (h, w) of training clips.
      chunk: frames of a call.
      clips: of a training step, over all devices.
      prototypes: of a video.
      classes: of the masks.
      depths: blocks of the encoder's stages; () for the backbone's own.
    """

    frame: tuple[int, int] = (480, 853)
    crop: tuple[int, int] = (480, 480)
    chunk: int = 8
    clips: int = 8
    prototypes: int = 100
    classes: int = 124
    depths: tuple[int, ...] = ()


def programs(
    devices: Sequence[jax.Device], backbone: str = "b1", dtype: str = "float32", sizes: Sizes = Sizes()
) -> dict[str, Program]:
    """The programs by name.

    Args:
      devices: one, or a topology's; those that share a training step are there for two or more.
      backbone: b0 .. b5.
      dtype: float32 or bfloat16, of the computations.
      sizes: of frames, clips and so on.
    """
    first = SingleDeviceSharding(devices[0])
    cffm, cffmpp = (_config(f"{method}_{backbone}", dtype, sizes) for method in ("cffm", "cffmpp"))
    one, two = mesh_of(devices[:1]), devices[:2]
    made = {
        "chunk": functools.partial(_chunk, cffm, sizes, first),
        "chunk-cffmpp": functools.partial(_chunk, cffmpp, sizes, first),
        "labelled": functools.partial(_labelled, cffm, sizes, first),
        "stream": functools.partial(_stream, cffm, sizes, first),
        "streams-4": functools.partial(_stream, cffm, sizes, first, streams=4),
        "stream-cffmpp": functools.partial(_stream, cffmpp, sizes, first),
        "stream-tiles": functools.partial(_stream, cffm, sizes, first, tiles=_halves(sizes)),
        "export": functools.partial(_export, cffm, sizes, first),
        "k-means": functools.partial(_k_means, cffmpp, sizes, first),
        "training": functools.partial(lower_training, cffm, one),
        "training-remat": functools.partial(lower_training, _training(cffm, remat="products"), one),
        "training-accumulate": functools.partial(lower_training, _training(cffm, accumulate=2), one),
        "second-stage": functools.partial(lower_training, cffmpp, one),
    }
    if len(two) == 2:
        made["training-data-2"] = functools.partial(lower_training, cffm, mesh_of(two))
        made["training-fsdp-2"] = functools.partial(lower_training, cffm, mesh_of(two, fsdp=2))
    return {name: Program(name, lower) for name, lower in made.items()}


def lower_training(config: Config, mesh: Mesh) -> jax.stages.Lowered:
    """A run's training step over the mesh."""
    model = build_model(config.model)
    optimizer = make_optimizer(config.optim, config.train.steps, model)
    state = state_shapes(model, optimizer, mesh, ema=config.optim.ema > 0)
    clips, frames = config.train.batch_size, 1 + len(model.training_offsets(config.data.offsets))
    batch = {
        "frames": _shape(clips, frames, *config.data.crop, 3),
        "labels": _shape(clips, frames, *config.data.crop),
        "size": _shape(clips, 2, dtype=jnp.int32),
    }
    if model.reads_prototypes:
        batch["prototypes"] = _shape(clips, config.prototypes.count, model.width, dtype=jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    step = step_of(config, model, optimizer, mesh)
    return step.lower(state, _placed(batch, batch_sharded(mesh)), _placed(key, replicated(mesh)))


def _config(name: str, dtype: str, sizes: Sizes) -> Config:
    return Config(
        model=ModelConfig(name=name, num_classes=sizes.classes, dtype=dtype, depths=sizes.depths),
        data=DataConfig(frame_size=sizes.frame, crop=sizes.crop),
        eval=EvalConfig(chunk=sizes.chunk),
        prototypes=PrototypeConfig(count=sizes.prototypes),
        train=TrainConfig(batch_size=sizes.clips),
    )


def _training(config: Config, **changes: Any) -> Config:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **changes))


def _shape(*sides: int, dtype: Any = jnp.uint8) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sides, dtype)


def _placed(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


def _whole_videos(config: Config) -> VideoSegmenter:
    return VideoSegmenter(build_model(config.model), config, types.SimpleNamespace(of=lambda video: None), parts=False)


def _weights(segmenter: VideoSegmenter | StreamSegmenter, place: jax.sharding.Sharding) -> dict[str, Any]:
    return _placed(variable_shapes(segmenter.model), place)


def _chunk(config: Config, sizes: Sizes, place: jax.sharding.Sharding) -> jax.stages.Lowered:
    segmenter = _whole_videos(config)
    return segmenter.lower(_weights(segmenter, place), sizes.frame)


def _labelled(config: Config, sizes: Sizes, place: jax.sharding.Sharding) -> jax.stages.Lowered:
    segmenter = _whole_videos(config)
    return labelled_frames.lower(segmenter, _weights(segmenter, place), sizes.frame)


def _stream(config: Config, sizes: Sizes, place: jax.sharding.Sharding, **more: Any) -> jax.stages.Lowered:
    segmenter = _segmenter(config, sizes, **more)
    prepared = segmenter.segment.prepare(variable_shapes(segmenter.model))  # As ``predictions`` does on GPUs.
    return segmenter.lower(_placed(prepared, place))


def _segmenter(config: Config, sizes: Sizes, **more: Any) -> StreamSegmenter:
    # Streams of a step as a batch: the default of GPUs, not of the CPU that compiles.
    return StreamSegmenter(build_model(config.model), config, sizes.frame, apart=False, **more)


def _halves(sizes: Sizes) -> Tiling:
    """Two tiles a side, or one where they would be no smaller."""
    h, w = (32 * -(-side // 48) for side in evaluation_size(*sizes.frame, sizes.frame))
    return Tiling((h, w), 32)


def _export(config: Config, sizes: Sizes, place: jax.sharding.Sharding) -> jax.stages.Lowered:
    segmenter = _segmenter(config, sizes)
    exported = exported_step(segmenter, flatten(variable_shapes(segmenter.model)))
    arguments, _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
    return jax.jit(exported.call, donate_argnums=1).lower(*_placed(arguments, place))  # As exported.py does.


def _k_means(config: Config, sizes: Sizes, place: jax.sharding.Sharding) -> jax.stages.Lowered:
    """Of the tokens that a video's prototypes are made of."""
    h, w = evaluation_size(*sizes.frame, sizes.frame)
    plan, width = config.prototypes, build_model(config.model).width
    tokens = _shape(plan.frames * (h // 8) * (w // 8), width, dtype=jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    clustered = functools.partial(cluster, k=plan.count, max_iterations=plan.iterations)
    return jax.jit(clustered).lower(*_placed((key, tokens), place))
