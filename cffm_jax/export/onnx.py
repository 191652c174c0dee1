"""A stream's step as one ONNX file, weights and all: runs with onnxruntime alone.

Inputs are the state's arrays by name and ``frames`` u8[S,H0,W0,3] in RGB; outputs the next state's,
in the same order as ``next_`` and the name, and ``masks`` u8[S,H0,W0]. A state of zeros has seen
nothing. Computes in float32.

CFFM++ does not convert: docs/onnx.md says why.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cffm_jax.errors import InputError
from cffm_jax.export import stablehlo
from cffm_jax.inference.load import Weights
from cffm_jax.inference.streaming import StreamSegmenter
from cffm_jax.models import by_platform
from cffm_jax.models.methods.method import Method
from cffm_jax.models.variables import flatten
from cffm_jax.runtime.atomic import whole_file

OPSET = 23
_CLOSE = 1e-3
"""Share of the masks and of the state's largest number that onnxruntime may change in a step."""


def require_jax2onnx(where: object) -> tuple[types.ModuleType, types.ModuleType]:
    """jax2onnx and onnxruntime. InputError if they are not installed."""
    try:
        with _quiet():
            return importlib.import_module("jax2onnx"), importlib.import_module("onnxruntime")
    except ImportError as error:
        problem = "needs jax2onnx and onnxruntime, and they are not installed"
        raise InputError(where, problem, "install them: make install-onnx, or pip install 'cffm-jax[onnx]'") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without jax2onnx's leftover prints and its warnings of skipped parts, which we do not use."""
    for name in ("jax2onnx", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def export_onnx(weights: Weights, path: str | Path, size: tuple[int, int], *, streams: int = 1) -> str:
    """Writes a stream's step for frames of one size, whole or not at all, once it computes as ours.

    Args:
      weights: as of ``cffm_jax.load``, of a model without global contexts.
      path: a new file.
      size: (H0, W0) of the frames.
      streams: S, frames of a step, of one stream each.

    Returns:
      How near a step of onnxruntime was, in words.

    Raises:
      InputError: the file is there already or cannot be written, jax2onnx or onnxruntime is not
        installed, the model has global contexts, or onnxruntime computes something else.
    """
    path = Path(path)
    if path.exists():
        raise InputError(path, "is there already", "name a new file")
    assert isinstance(weights.model, Method)  # Not of an encoder alone.
    if weights.model.reads_prototypes:
        problem = f"{weights.model.public_name} has prototypes, which do not convert to ONNX"
        raise InputError(path, problem, "take --to jax-export, or a model without prototypes")
    if weights.model.BRANCHES:  # onnxruntime misses an input of a condition within a loop.
        problem = f"{weights.model.public_name} has key frames, which do not convert to ONNX"
        raise InputError(path, problem, "take --to jax-export, or a model without key frames")
    if weights.model.BORROWED and (weights.model.reference_names or weights.model.contexts()):
        problem = f"{weights.model.public_name} reads optical flow, which does not convert to ONNX"
        raise InputError(path, problem, "take --to jax-export, or a model without")
    jax2onnx, onnxruntime = require_jax2onnx(path)
    model = weights.model.clone(dtype=jnp.float32)
    segmenter = StreamSegmenter(model, weights.config, size, streams, apart=False)
    arrays = {name: np.asarray(array) for name, array in flatten(weights.variables).items()}
    leaves = jax.tree.leaves(jax.eval_shape(segmenter.start))

    def step(*inputs: jax.Array) -> tuple[jax.Array, ...]:
        state, masks = stablehlo.step(segmenter, arrays, inputs[:-1], inputs[-1])
        return (*state, masks)

    names = state_names(segmenter)
    specs = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    specs.append(jax.ShapeDtypeStruct((streams, *size, len(segmenter.model.channels)), segmenter.model.channels.dtype))
    with _quiet(), by_platform.only("cpu"):
        made = jax2onnx.to_onnx(
            step, specs, model_name=weights.model.public_name, opset=OPSET,
            input_names=[*names, "frames"], output_names=[*(f"next_{name}" for name in names), "masks"],
        )  # fmt: skip
    for key, value in _description(weights, segmenter).items():
        made.metadata_props.add(key=key, value=value)
    data = made.SerializeToString()
    compared = _compare(path, _session(onnxruntime, data), step, specs)
    with whole_file(path) as partial:
        partial.write_bytes(data)
    return compared


def state_names(segmenter: StreamSegmenter) -> list[str]:
    """Names of the state's arrays, in their order: clock, ages, and of the ring as "keys_0_far"."""
    state = jax.eval_shape(segmenter.start)
    references = segmenter.model.reference_names if len(state.ring) > 1 else ("all",)
    names = ["clock", "ages"]
    for path, _ in jax.tree_util.tree_leaves_with_path(state.ring):
        reference, *parts = (str(getattr(key, "name", getattr(key, "idx", key))) for key in path)
        names.append("_".join([*reversed(parts), references[int(reference)]]))
    return [*names, *(f"recurrent_{i}" for i in range(len(jax.tree.leaves(state.recurrent))))]


def _description(weights: Weights, segmenter: StreamSegmenter) -> dict[str, str]:
    """Metadata of the file: words as they are, all else as JSON."""
    about = stablehlo.description(weights, segmenter)
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}


def _session(onnxruntime: types.ModuleType, data: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # Errors alone: it warns of every constant that it folds away.
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _compare(path: Path, session: Any, step: Any, specs: list[jax.ShapeDtypeStruct]) -> str:
    """How near a step from the midst of a stream, with a ring of any numbers, is to ours, in words.
    InputError unless it is near."""
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(spec.shape).astype(spec.dtype) for spec in specs[2:-1]]
    clock, ages = (np.full(spec.shape, 1_000, spec.dtype) for spec in specs[:2])
    inputs = [clock, ages, *inputs, rng.integers(0, 256, specs[-1].shape).astype(specs[-1].dtype)]
    *state, masks = map(np.asarray, jax.jit(step)(*inputs))
    *other, others = session.run(None, {each.name: value for each, value in zip(session.get_inputs(), inputs)})
    alike = all(mine.shape == theirs.shape for mine, theirs in zip((*state, masks), (*other, others), strict=True))
    differ = np.count_nonzero(masks != others) if alike else masks.size
    pairs = zip(state, other, strict=True) if alike else ()
    off = [np.abs(mine - theirs).max() / max(1, np.abs(mine).max()) for mine, theirs in pairs]
    # Put so that nan is too far.
    if not (alike and differ < _CLOSE * masks.size and all(each < _CLOSE for each in off)):
        raise InputError(path, "onnxruntime computes something else", "install the versions of requirements/onnx.txt")
    return (
        f"a step of onnxruntime beside JAX's: {differ} of {masks.size} pixels have another class, the state is off by "
        f"{max(off):.0e} of its largest number"
    )
