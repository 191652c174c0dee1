"""A stream's step as one ONNX file, weights and all: runs with onnxruntime or OpenVINO alone.

Inputs are the state's arrays by name, ``frames`` u8[S,H0,W0,3] in RGB and, with global contexts,
``prototypes`` f32[S,P,C]; outputs the next state's, in the same order as ``next_`` and the name,
``masks`` u8[S,H0,W0] and, with global contexts, ``features`` f32[S,h,w,C], of which prototypes are
clustered and which do not depend on them. A state of zeros has seen nothing. Computes in float32.

The graph is that of the traced step (``lowering``): LayerNormalization, Conv, MatMul, Softmax,
Gelu, Resize and so on, as the network's layers have them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cffm_jax.errors import InputError
from cffm_jax.export import stablehlo
from cffm_jax.inference.load import Weights
from cffm_jax.inference.onnx_engines import OnnxRuntime, Run, required
from cffm_jax.inference.onnx_stream import FEATURES, FRAMES, MASKS, PROTOTYPES, outputs_of
from cffm_jax.inference.streaming import StreamSegmenter
from cffm_jax.models import by_platform, operators
from cffm_jax.models.methods.method import Method
from cffm_jax.models.normalise import normalise
from cffm_jax.models.variables import flatten, unflatten
from cffm_jax.runtime.atomic import whole_file

_CLOSE = 1e-3
"""Share of the masks and of the state's largest number that onnxruntime may change in a step."""
Step = Callable[..., tuple[jax.Array, ...]]


def require_onnx(where: object) -> None:
    """InputError unless onnx and onnxruntime are installed."""
    for package in ("onnx", "onnxruntime"):
        required(package, where, "onnx")


def export_onnx(weights: Weights, path: str | Path, size: tuple[int, int], *, streams: int = 1) -> str:
    """Writes a stream's step for frames of one size, whole or not at all, once it computes as ours.

    Args:
      weights: as of ``cffm_jax.load``.
      path: a new file.
      size: (H0, W0) of the frames.
      streams: S, frames of a step, of one stream each.

    Returns:
      How near a step of onnxruntime was, in words.

    Raises:
      InputError: the file is there already or cannot be written, onnx or onnxruntime is not
        installed, the model computes what does not convert, or onnxruntime computes something else.
    """
    path = Path(path)
    if path.exists():
        raise InputError(path, "is there already", "name a new file")
    assert isinstance(weights.model, Method)  # Not of an encoder alone.
    require_onnx(path)
    model = weights.model.clone(dtype=jnp.float32)
    given = model.reads_prototypes
    segmenter = StreamSegmenter(model, weights.config, size, streams, apart=False, given=given)
    leaves = jax.tree.leaves(jax.eval_shape(segmenter.start))
    names = state_names(segmenter)
    inputs = dict(zip(names, (jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves), strict=True))
    channels = model.channels
    inputs[FRAMES] = jax.ShapeDtypeStruct((streams, *size, len(channels)), channels.dtype)
    outputs = outputs_of(names)
    if given:
        shape = (streams, weights.config.prototypes.count, model.width)
        inputs[PROTOTYPES] = jax.ShapeDtypeStruct(shape, jnp.float32)
        outputs.append(FEATURES)
    data = _converted(path, weights, segmenter, inputs, outputs)
    run = OnnxRuntime(path, data).runner()
    compared = _compare(path, run, jax.jit(_step(segmenter, weights)), inputs, outputs)
    with whole_file(path) as partial:
        partial.write_bytes(data)
    return compared


def _step(segmenter: StreamSegmenter, weights: Weights) -> Step:
    """Of the inputs in order, the outputs in order. A new function each time: JAX keeps what it has
    traced of one."""
    arrays = {name: np.asarray(array) for name, array in flatten(weights.variables).items()}

    def step(*inputs: jax.Array) -> tuple[jax.Array, ...]:
        if not segmenter.model.reads_prototypes:
            state, masks = stablehlo.step(segmenter, arrays, inputs[:-1], inputs[-1])
            return (*state, masks)
        *leaves, frames, prototypes = inputs
        state, masks = stablehlo.step(segmenter, arrays, leaves, frames, prototypes)
        x = normalise(stablehlo.resized(segmenter, frames), channels=segmenter.model.channels)
        features = segmenter.model.apply(unflatten(arrays), x, method="prototype_tokens")
        return (*state, masks, jnp.asarray(features, jnp.float32))

    return step


def _converted(
    path: Path,
    weights: Weights,
    segmenter: StreamSegmenter,
    inputs: dict[str, jax.ShapeDtypeStruct],
    outputs: list[str],
) -> bytes:
    from cffm_jax.export.lowering.lower import Unsupported
    from cffm_jax.export.lowering.operators import with_layer_norms
    from cffm_jax.export.lowering.program import converted

    with by_platform.only("default"), operators.shown(), nn.intercept_methods(with_layer_norms):
        program = jax.make_jaxpr(_step(segmenter, weights))(*inputs.values())
    try:
        made = converted(program, weights.model.public_name, list(inputs), outputs)
    except Unsupported as error:
        problem = f"{weights.model.public_name} {error}, which does not convert to ONNX"
        raise InputError(path, problem, "take --to jax-export") from error
    for key, value in _description(weights, segmenter).items():
        made.metadata_props.add(key=key, value=value)
    return made.SerializeToString()


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


def _compare(path: Path, run: Run, step: Step, inputs: dict[str, jax.ShapeDtypeStruct], outputs: list[str]) -> str:
    """How near two steps with states of any numbers are to ours, in words: of a stream's first
    frame, which is a key frame, and of one from its midst, which is none at the usual intervals.
    InputError unless they are near."""
    rng = np.random.default_rng(0)
    drawn = {name: rng.standard_normal(spec.shape).astype(spec.dtype) for name, spec in inputs.items()}
    if inputs[FRAMES].dtype == np.uint8:
        drawn[FRAMES] = rng.integers(0, 256, inputs[FRAMES].shape, np.uint8)
    differ, pixels, off = 0, 0, [0.0]
    for age in (0, 1_001):
        for name in ("clock", "ages"):
            drawn[name] = np.full(inputs[name].shape, age, inputs[name].dtype)
        pairs = dict(zip(outputs, zip(map(np.asarray, step(*drawn.values())), run(drawn, outputs)), strict=True))
        masks, others = pairs.pop(MASKS)
        alike = all(mine.shape == other.shape for mine, other in (*pairs.values(), (masks, others)))
        differ += np.count_nonzero(masks != others) if alike else masks.size
        pixels += masks.size
        off += [np.abs(mine - other).max() / max(1, np.abs(mine).max()) for mine, other in pairs.values() if alike]
    # Put so that nan is too far.
    if not (differ < _CLOSE * pixels and all(each < _CLOSE for each in off)):
        raise InputError(path, "onnxruntime computes something else", "install the versions of requirements/onnx.txt")
    return (
        f"steps of onnxruntime beside JAX's: {differ} of {pixels} pixels have another class, the state is off by "
        f"{max(off):.0e} of its largest number"
    )
