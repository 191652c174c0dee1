"""``convert_state_dict``, ``export_state_dict``: strictly between torch's layout and variables."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from cffm_jax.errors import InputError, first_few
from cffm_jax.models.encoders.names import backbone_of
from cffm_jax.models.flow import names as flow_names
from cffm_jax.models.flow.raft import Raft
from cffm_jax.models.foreign.layouts import Layout, alone
from cffm_jax.models.foreign.names import fields_of, layer_at
from cffm_jax.models.methods.method import Method
from cffm_jax.models.variables import Network, flatten, unflatten, variable_shapes
from cffm_jax.weights.files.stored_array import StoredArray
from cffm_jax.weights.naming.foreign import Foreign, combined_shape
from cffm_jax.weights.naming.origins import BACKBONE, ENCODER, Naming
from cffm_jax.weights.naming.recognise import recognise

HEAD = "head"
"""All of a model but its encoder and what it borrows."""
_VSPW_HEAD = "decoder."
"""Prefix of a head's keys beside an encoder's, which its own file lacks."""


def released_key(model: Network, collection: str, path: str) -> tuple[str, Layout] | None:
    """Released key and layout of the model's leaf ``path`` (slash-separated); None without any."""
    of_encoder = not isinstance(model, Raft) and path.startswith(f"{ENCODER}/")
    layers = backbone_of(model.backbone).layers if of_encoder else model.foreign_names.layers
    layer = layer_at(layers, collection, path.removeprefix(f"{ENCODER}/"))
    return (BACKBONE * of_encoder + layer[2], layer[1].layout) if layer else None


@functools.lru_cache(maxsize=16)
def key_map(model: Network, part: str = "all") -> dict[str, tuple[str, str, Layout, tuple[int, ...]]]:
    """Released key -> (collection, our path, layout, our shape) of each leaf, of the encoder's, or
    of all others ("head")."""
    result = {}
    for collection, tree in variable_shapes(model).items():
        for path, leaf in flatten(tree).items():
            top = path.partition("/")[0]
            if part != "all" and (part == ENCODER) != (top == ENCODER) or part == HEAD and top in model.BORROWED:
                continue
            released = released_key(model, collection, path)
            if released is None:
                problem = "has no counterpart in the released weights"
                raise InputError(path, problem, "load the encoder alone (--init.encoder), or name a checkpoint folder")
            result[released[0]] = (collection, path, released[1], leaf.shape)
    return result


def without_counterpart(model: Method) -> list[str]:
    """The model's leaves that the released layout has no name for."""
    return [
        path
        for collection, tree in variable_shapes(model).items()
        for path in flatten(tree)
        if released_key(model, collection, path) is None
    ]


def is_dead(model: Method, key: str) -> bool:
    """Whether a key in the released layout carries nothing that the model computes with."""
    return Naming(backbone_of(model.backbone).origins[0], model.foreign_names).is_dead(key)


def dead_arrays(model: Network, live: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the release asks for beside the model's arrays in the released layout, as zeros."""
    counted = (key.removesuffix("running_mean") for key in live if key.endswith(".running_mean"))
    counters = {key + "num_batches_tracked": np.zeros((), np.int64) for key in counted}
    return counters | model.foreign_names.dead_arrays(live)


@dataclasses.dataclass(frozen=True)
class Match:
    """A state dict laid over a model.

    Attributes:
      leaves: the model's leaves that are there, by "<collection>/<path>"; loaded, they are float32
        in our layout.
      sources: the file's keys that each of them is made of.
      fresh: leaves that files of this origin do not have.
      missing: the keys that the file should have.
      left_over: keys that the model has no use for.
      dead: keys that carry nothing.
      misshapen: "KEY is [...], not [...]".
    """

    leaves: dict[str, StoredArray]
    sources: dict[str, tuple[str, ...]]
    fresh: tuple[str, ...]
    missing: tuple[str, ...]
    left_over: tuple[str, ...]
    dead: tuple[str, ...]
    misshapen: tuple[str, ...]

    def problems(self) -> list[str]:
        """Everything that keeps it from being the model's weights, with the nearest names."""
        return [
            *(f"missing {key}{_nearest(key, self.left_over)}" for key in self.missing),
            *(f"left over {key}{_nearest(key, self.missing)}" for key in self.left_over),
            *self.misshapen,
        ]


def match(foreign: Foreign, model: Network, part: str = "all") -> Match:
    """Lays a recognised state dict over ``model`` (or its encoder: other keys do not matter)."""
    leaves, sources, fresh, missing, misshapen, used = {}, {}, [], [], [], set()
    naming = Naming(foreign.naming.origin, model.foreign_names)
    may_lack = [] if isinstance(model, Raft) else [BACKBONE + key for key in backbone_of(model.backbone).afresh]
    for released, (collection, path, layout, shape) in key_map(model, part).items():
        rule = naming.sources(released)
        keys, combine = rule or ((released,), alone)
        absent = [key for key in keys if not rule or key not in foreign.arrays]
        used.update(keys if rule else ())
        if absent:
            lacks = len(absent) == len(keys) and any(fields_of(key, released) is not None for key in may_lack)
            fresh += [f"{collection}/{path}"] if lacks else []
            names = [*map(foreign.name_of, absent)]
            top = released.partition(".")[0] + "."
            if path.partition("/")[0] in model.BORROWED and not any(key.startswith(top) for key in foreign.arrays):
                names = [f"{top}* (another network's weights, by their own names below this prefix)"]
            missing += [] if lacks else [name for name in names if name not in missing]
            continue
        expected = layout.save(np.empty(shape, np.bool_)).shape
        parts = [foreign.arrays[key] for key in keys]
        names = tuple(foreign.names[key] for key in keys)
        if combined_shape(combine, [part.shape for part in parts]) != expected:
            shapes = ", ".join(str(list(part.shape)) for part in parts)
            together = ", together" if len(parts) > 1 else ""
            misshapen.append(f"{' and '.join(names)} is {shapes}{together}, not {list(expected)}")
            continue
        kinds = {part.dtype.name for part in parts if not jnp.issubdtype(part.dtype, jnp.floating)}
        if kinds:
            misshapen.append(f"{names[0]} is of type {kinds.pop()}, not floating")
            continue
        load = functools.partial(_load, parts, combine, layout)
        leaves[f"{collection}/{path}"] = StoredArray(shape, np.dtype(np.float32), load)
        sources[f"{collection}/{path}"] = names
    rest = [key for key in foreign.arrays if key not in used]
    dead = tuple(foreign.names[key] for key in rest if naming.is_dead(key))
    rest = [key for key in rest if not naming.is_dead(key)]
    if part == ENCODER and foreign.family != ENCODER:
        rest = [key for key in rest if foreign.is_encoder_key(key)]
    left_over = tuple(foreign.names[key] for key in rest)
    return Match(leaves, sources, tuple(fresh), tuple(missing), left_over, dead, tuple(misshapen))


def _load(parts: Iterable[StoredArray], combine: Any, layout: Layout) -> np.ndarray:
    return np.ascontiguousarray(layout.load(as_float32(combine([part.load() for part in parts]))))


def as_float32(array: np.ndarray) -> np.ndarray:
    """A double beyond float32 becomes an infinity, which ``load_leaves`` refuses."""
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def load_leaves(leaves: Mapping[str, StoredArray], source: object) -> dict[str, np.ndarray]:
    """Reads them all. InputError if one holds values that are not finite, naming all that do."""
    arrays = {path: leaf.load() for path, leaf in leaves.items()}
    problem = not_finite(path for path, array in arrays.items() if not np.isfinite(array).all())
    if problem:
        raise InputError(source, problem, "use another file: this one is damaged, or its training diverged")
    return arrays


def not_finite(paths: Iterable[str]) -> str:
    """What is wrong with weights of which these leaves hold NaN or infinities; "" for none."""
    paths = tuple(paths)
    return f"holds values that are not finite (NaN, infinity) in {first_few(paths, 5)}" if paths else ""


def convert_state_dict(
    state_dict: Mapping[str, np.ndarray], model: Network, *, part: str = "all", source: object = "state dict"
) -> dict[str, Any]:
    """Variables of ``model`` from a state dict in torch layout.

    Args:
      state_dict: arrays by key, of any origin in ``Backbone.origins``: the authors' CFFM and
        CFFM++, MiT and SegFormer of NVlabs (with or without dead classifier), Hugging Face,
        MMSegmentation, ...; under any prefix, if nothing is beside them. Of RAFT torchvision's,
        without a prefix.
      model: the module that the weights are for.
      part: "all", "encoder" for the encoder's alone, or "head" for all others: files of the VSPW
        baselines have the two apart. A head's keys are the model's own, with or without "decoder.".
      source: what to name in errors, usually the file.

    Returns:
      {"params": ..., "batch_stats": ...} of float32 arrays ("encoder": only its own).

    Raises:
      InputError: keys are missing, left over or have another shape (all are listed with their
        nearest names), or values are not finite.
    """
    arrays = describe(state_dict)
    if isinstance(model, Raft):
        foreign = Foreign(Naming(flow_names.ORIGIN, flow_names.NAMES), arrays, {key: key for key in arrays})
    else:
        foreign = _of_head(arrays, model) if part == HEAD else recognise(arrays, source)
    matched = match(foreign, model, part)
    problems = matched.problems() + [f"{path} is not there" for path in matched.fresh]
    problems += [f"left over {key}" for key in foreign.beside]
    if problems:
        classes = "" if isinstance(model, Raft) else f" with {model.num_classes} classes"
        raise InputError(
            source,
            f"does not fit {model.public_name}{classes}: {'; '.join(problems)}",
            "give the weights of this model, or name the model they are of",
        )
    return unflatten(load_leaves(matched.leaves, source))


def _of_head(arrays: Mapping[str, StoredArray], model: Method) -> Foreign:
    """Arrays by the keys of the model's own head."""
    naming = Naming(backbone_of(model.backbone).origins[0], model.foreign_names)
    wanted = key_map(model, HEAD)
    bare = sum(key in wanted for key in arrays) < sum(_VSPW_HEAD + key in wanted for key in arrays)
    names = {_VSPW_HEAD * bare + key: key for key in arrays}
    return Foreign(naming, {key: arrays[name] for key, name in names.items()}, names, _VSPW_HEAD * bare)


def describe(arrays: Mapping[str, np.ndarray]) -> dict[str, StoredArray]:
    """Arrays in memory as if they were stored."""
    arrays = {str(key): np.asarray(value) for key, value in arrays.items()}
    return {
        key: StoredArray(array.shape, array.dtype, functools.partial(np.asarray, array))
        for key, array in arrays.items()
    }


def export_state_dict(
    variables: Mapping[str, Any], model: Network, *, part: str = "all", dead: bool = False
) -> dict[str, np.ndarray]:
    """The inverse: variables, or a tree shaped like them (gradients), in the released layout.
    Collections that are absent (a gradient tree has only "params") are left out. Dead weights are
    not written, or, with ``dead``, as zeros, so that the authors' code finds all that it was built
    with. ``part`` "encoder": its alone."""
    flat = flatten(variables)
    prefix = "" if isinstance(model, Raft) else backbone_of(model.backbone).origins[0].prefix
    live = {
        re.sub(f"^{BACKBONE}", prefix, key): np.ascontiguousarray(layout.save(np.asarray(flat[f"{collection}/{path}"])))
        for key, (collection, path, layout, _) in key_map(model, part).items()
        if collection in variables
    }
    return {**live, **dead_arrays(model, live)} if dead else live


def _nearest(key: str, candidates: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(key, candidates, n=1, cutoff=0.8) if len(candidates) < 200 else []
    return f" (nearest: {close[0]})" if close else ""
