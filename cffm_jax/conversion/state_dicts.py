"""``convert_state_dict`` and ``export_state_dict``: torch-layout state dicts and variables, strictly."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from cffm_jax.conversion import table
from cffm_jax.errors import InputError
from cffm_jax.models.cffm import CFFM, INPUT_MULTIPLE

ENCODER = "encoder"


def variable_shapes(model: CFFM) -> dict[str, Any]:
    """Shapes of the model's variables, without computing anything; they do not depend on the clips' size."""
    frames = len(model.sources) + 1
    clips = jax.ShapeDtypeStruct((1, frames, INPUT_MULTIPLE, INPUT_MULTIPLE, 3), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), clips)


@functools.lru_cache(maxsize=16)
def key_map(model: CFFM, part: str = "all") -> dict[str, tuple[str, str, table.Layout, tuple[int, ...]]]:
    """Their key -> (collection, our path, layout, our shape) for every leaf of the model (or of its encoder alone)."""
    result = {}
    for collection, tree in variable_shapes(model).items():
        for path, leaf in flax.traverse_util.flatten_dict(tree, sep="/").items():
            if part == ENCODER and not path.startswith(ENCODER + "/"):
                continue
            found = table.torch_key(collection, path)
            if found is None:
                problem = "has no counterpart in the released weights"
                raise InputError(path, problem, "load the encoder alone (--init.encoder), or name a checkpoint folder")
            result[found[0]] = (collection, path, found[1], leaf.shape)
    return result


def convert_state_dict(
    state_dict: Mapping[str, np.ndarray], model: CFFM, *, part: str = "all", source: object = "state dict"
) -> dict[str, Any]:
    """Variables of ``model`` from a released state dict in torch layout.

    Args:
      state_dict: arrays by key: the authors' CFFM, NVlabs' SegFormer (with or without the dead classifier), or MiT
        (``part="encoder"``; keys with or without ``backbone.``).
      model: the module that the weights are for.
      part: "all", or "encoder" for the encoder's parameters alone.
      source: what to name in errors, usually the file.

    Returns:
      {"params": ..., "batch_stats": ...} of float32 arrays ("encoder": only its params).

    Raises:
      InputError: keys are missing, left over or have another shape; all are listed with their nearest names.
    """
    state_dict = {str(key): value for key, value in state_dict.items()}
    if part == ENCODER:
        state_dict = _encoder_keys(state_dict)
    wanted = key_map(model, part)
    live = {key: value for key, value in state_dict.items() if not table.is_dead(key)}
    problems = [f"missing {key}{_nearest(key, live, wanted)}" for key in wanted if key not in live]
    problems += [f"left over {key}{_nearest(key, wanted, live)}" for key in live if key not in wanted]
    variables: dict[str, dict[str, np.ndarray]] = {}
    for key, (collection, path, layout, shape) in wanted.items():
        if key not in live:
            continue
        expected = layout.save(np.empty(shape, np.bool_)).shape
        array = np.asarray(live[key])
        if array.shape != expected:
            problems.append(f"{key} is {list(array.shape)}, not {list(expected)}")
            continue
        variables.setdefault(collection, {})[path] = np.ascontiguousarray(layout.load(array.astype(np.float32)))
    if problems:
        raise InputError(
            source,
            f"does not fit {model.public_name} with {model.num_classes} classes: {'; '.join(problems)}",
            "give the weights of this model, or name the model they are of",
        )
    return {c: flax.traverse_util.unflatten_dict(leaves, sep="/") for c, leaves in variables.items()}


def export_state_dict(variables: Mapping[str, Any], model: CFFM) -> dict[str, np.ndarray]:
    """The inverse: the release's keys and layout for variables, or for any tree shaped like them, such as gradients.

    Collections that are absent (a gradient tree has only "params") are left out; dead weights are not written.
    """
    flat = {
        (collection, path): leaf
        for collection, tree in variables.items()
        for path, leaf in flax.traverse_util.flatten_dict(tree, sep="/").items()
    }
    return {
        key: np.ascontiguousarray(layout.save(np.asarray(flat[collection, path])))
        for key, (collection, path, layout, _) in key_map(model).items()
        if collection in variables
    }


def _encoder_keys(state_dict: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The encoder's entries, with the release's prefix; a whole model's other entries are not asked for."""
    with_prefix = {key: value for key, value in state_dict.items() if key.startswith("backbone.")}
    return with_prefix or {"backbone." + key: value for key, value in state_dict.items()}


def _nearest(key: str, candidates: Mapping[str, Any], taken: Mapping[str, Any]) -> str:
    free = [candidate for candidate in candidates if candidate not in taken]
    close = difflib.get_close_matches(key, free, n=1, cutoff=0.8) if len(free) < 200 else []
    return f" (nearest: {close[0]})" if close else ""
