"""A stream as a folder that runs with JAX alone: its step as StableHLO (`jax.export`), its weights.

    <folder>/step.jax             (weights, state, frames u8[S,H0,W0,3]) -> (state, u8[S,H0,W0])
    <folder>/weights.safetensors  the arrays by their paths
    <folder>/model.json           what it is, and the files' sha256
    <folder>/exported.py          the loader, 30 lines of code

The frames are resized inside the step, bytes as OpenCV does it (``resize_bytes``).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from cffm_jax.data import augment
from cffm_jax.errors import InputError
from cffm_jax.export import exported
from cffm_jax.export.resize_bytes import resize_bytes
from cffm_jax.inference.load import Weights
from cffm_jax.inference.streaming import StreamSegmenter
from cffm_jax.models.methods.method import Method
from cffm_jax.models.resize import resize_bilinear
from cffm_jax.models.variables import flatten, unflatten
from cffm_jax.runtime.atomic import WholeFolder
from cffm_jax.runtime.checksums import digest_of_file
from cffm_jax.weights.files.write import write_safetensors

PLATFORMS = ("cpu", "cuda")
"""Where the step runs; none of them needs to be here."""
STEP, WEIGHTS, ABOUT = "step.jax", "weights.safetensors", "model.json"


def export_stream(weights: Weights, folder: str | Path, size: tuple[int, int], *, streams: int = 1) -> None:
    """Writes a stream's step for frames of one size, whole or not at all.

    Args:
      weights: as of ``cffm_jax.load``; with global contexts the prototypes are causal.
      folder: a new one.
      size: (H0, W0) of the frames.
      streams: S, frames of a step, of one stream each.

    Raises:
      InputError: the folder is there already or cannot be written, or the frames have too few
        tokens for prototypes.
    """
    folder = Path(folder)
    if folder.exists():
        raise InputError(folder, "is there already", "name a new folder")
    assert isinstance(weights.model, Method)  # Not of an encoder alone.
    segmenter = StreamSegmenter(weights.model, weights.config, size, streams, apart=False)
    arrays = flatten(weights.variables)
    made = exported_step(segmenter, arrays)
    with WholeFolder(folder) as whole, whole.writing() as partial:
        (partial / STEP).write_bytes(made.serialize())
        write_safetensors(partial / WEIGHTS, arrays, {"licence": weights.licence, "origin": weights.origin})
        shutil.copyfile(exported.__file__, partial / "exported.py")
        about = description(weights, segmenter) | {"platforms": list(PLATFORMS)}
        about["sha256"] = {name: digest_of_file(partial / name).hex() for name in (STEP, WEIGHTS)}
        (partial / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def exported_step(segmenter: StreamSegmenter, arrays: Mapping[str, Any]) -> jax.export.Exported:
    """``step`` for weights like the ``arrays``, of which the shapes alone are read."""
    channels = segmenter.model.channels
    state = tuple(jax.tree.leaves(jax.eval_shape(segmenter.start)))
    specs = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in arrays.items()}
    frames = jax.ShapeDtypeStruct((segmenter.streams, *segmenter.size, len(channels)), channels.dtype)
    program = jax.jit(functools.partial(step, segmenter))
    return jax.export.export(program, platforms=PLATFORMS)(specs, state, frames)


def step(
    segmenter: StreamSegmenter,
    arrays: Mapping[str, jax.Array | np.ndarray],
    leaves: Sequence[jax.Array],
    frames: jax.Array,
    prototypes: jax.Array | None = None,
) -> tuple[tuple[jax.Array, ...], jax.Array]:
    """The next state's arrays in order and the masks of frames u8[S, H0, W0, 3], resized here."""
    state = jax.tree.unflatten(jax.tree.structure(jax.eval_shape(segmenter.start)), leaves)
    state, masks = segmenter.function(unflatten(arrays), state, resized(segmenter, frames), prototypes)
    return tuple(jax.tree.leaves(state)), masks


def resized(segmenter: StreamSegmenter, frames: jax.Array) -> jax.Array:
    """Frames [S, H0, W0, K] as the segmenter takes them, [S, H, W, K]."""
    channels = segmenter.model.channels
    resize, dtype = (resize_bytes, jnp.int32) if channels.coloured else (resize_bilinear, jnp.float32)
    x = frames.astype(dtype)
    for size in (augment.fitted_size(*segmenter.size, segmenter.config.data.frame_size), segmenter.input_size):
        x = resize(x, size)
    return x.astype(channels.dtype)


def description(weights: Weights, segmenter: StreamSegmenter) -> dict[str, Any]:
    """Metadata of an export."""
    config = segmenter.config
    about = {
        "model": dataclasses.asdict(config.model),
        "origin": weights.origin,
        "licence": weights.licence,
        "frames": {"streams": segmenter.streams, "height": segmenter.size[0], "width": segmenter.size[1]},
        "channels": dataclasses.asdict(config.data.frame_channels),
        "input_size": segmenter.input_size,
        "offsets": list(config.data.offsets),
        "classes": list(weights.names),
        "colours": weights.colours[: len(weights.names)].tolist(),
        "jax": jax.__version__,
        "written_by": f"cffm_jax {metadata.version('cffm-jax')}",
    }
    if segmenter.model.reads_prototypes:  # By which those of the frames so far are computed.
        plan = dataclasses.asdict(config.prototypes)
        about["prototypes"] = {
            name: plan[name] for name in ("count", "start", "iterations", "seed", "memory", "interval")
        }
    return about
