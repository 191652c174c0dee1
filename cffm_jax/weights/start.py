"""Initial variables of a training run, part by part out of other weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from cffm_jax.errors import InputError, first_few
from cffm_jax.models import variables
from cffm_jax.models.encoders.names import ENCODER, backbone_of
from cffm_jax.models.methods.method import Method
from cffm_jax.weights.described import StoredWeights
from cffm_jax.weights.first_layer import for_channels
from cffm_jax.weights.naming.match import load_leaves
from cffm_jax.weights.open import random_leaves


class Report(NamedTuple):
    """Origin of the variables that training starts from.

    Attributes:
      source, origin: of the weights.
      loaded: parts that were taken over.
      parameters: how many numbers those are.
      fresh: parts that start at random -> why.
      dead: keys that no model computes with.
      ignored: parts that the model does not have, and what else the file holds.
      licence: what is known about their use.
      taken: which weights of a file with several were taken.
      first_layer: how its filters were made out of those for RGB, see `first_layer.extended`.
    """

    source: str
    origin: str
    loaded: tuple[str, ...]
    parameters: int
    fresh: dict[str, str]
    dead: tuple[str, ...]
    ignored: tuple[str, ...]
    licence: str
    taken: str = ""
    first_layer: str = ""

    def __str__(self) -> str:
        line = f"{', '.join(self.loaded)} ({self.parameters:,} parameters) from {self.source} ({self.origin})"
        line += f"; taken: {self.taken}" if self.taken else ""
        line += f"; first layer from RGB weights: {self.first_layer}" if self.first_layer else ""
        if self.fresh:
            line += "; random: " + ", ".join(f"{part} ({why})" for part, why in self.fresh.items())
        for kind, names in (("dead", self.dead), ("ignored", self.ignored)):
            line += f"; {kind}: {first_few(names, 6)}" if names else ""
        return f"{line}; licence: {self.licence}" if self.licence else line


def part_of(model: Method, path: str) -> str:
    """The part of a model that its leaf ("<collection>/<path>") belongs to."""
    top = path.split("/")[1]
    return model.PARTS[top if top in model.PARTS else top.rpartition("_")[0]]


def start_from(
    weights: StoredWeights,
    model: Method,
    key: jax.Array,
    *,
    only: Sequence[str] = (),
    may_be_fresh: Sequence[str] | None = None,
) -> tuple[dict[str, Any], Report]:
    """Variables of ``model``, part by part: out of ``weights`` if it has the part, else random.

    A part is taken whole or not at all. It starts at random where ``weights`` lacks it, where it
    classifies into another number of classes, or where the features are of another width;
    everything else that differs is an error.

    Args:
      weights: described, not read.
      model: what they are for.
      key: of the random parts.
      only: parts to take; default: all.
      may_be_fresh: parts that may start at random; default: all but the encoder.

    Raises:
      InputError: they are of another model, incomplete, damaged or not finite.
    """
    weights.require_sound()
    weights, first_layer = for_channels(weights, model)
    wanted = variables.flatten(variables.variable_shapes(model))
    parts = {part: [path for path in wanted if part_of(model, path) == part] for part in model.PARTS.values()}
    parts = {part: paths for part, paths in parts.items() if paths}
    fresh = {part: why for part in parts if (why := _why_fresh(part, weights, model, only))}
    _require_same(weights, model, wanted, [p for part in parts if part not in fresh for p in parts[part]])
    refused = [part for part in fresh if may_be_fresh is not None and part not in may_be_fresh]
    if refused or ENCODER in fresh:
        part = (refused or [ENCODER])[0]
        remedy = f"give the weights of a whole {(model.base or model).public_name} with these settings"
        raise InputError(weights.source, f"lacks the {part} that {model.public_name} needs ({fresh[part]})", remedy)
    taken = [path for part in parts if part not in fresh for path in parts[part] if path not in weights.fresh]
    arrays = load_leaves({path: weights.leaves[path] for path in taken}, weights.source)
    arrays |= random_leaves(model, key, tuple(path for path in wanted if path not in arrays))
    unused = {part_of(weights.model, path) for path in weights.leaves} - set(parts)
    afresh = backbone_of(model.backbone).afresh.values()
    report = Report(
        source=weights.source,
        origin=weights.origin,
        loaded=tuple(part for part in parts if part not in fresh),
        parameters=sum(arrays[path].size for path in taken if path.startswith("params/")),
        fresh=fresh | ({part: "not in such files" for part in afresh} if weights.fresh else {}),
        dead=weights.dead,
        ignored=(*(f"the {part}" for part in sorted(unused)), *weights.ignored),
        licence=weights.licence,
        taken=weights.taken,
        first_layer=first_layer,
    )
    return variables.unflatten(arrays), report


def _why_fresh(part: str, weights: StoredWeights, model: Method, only: Sequence[str]) -> str:
    """Why a part starts at random; "" if it is taken over."""
    if only and part not in only:
        return "as asked"
    if not any(part_of(weights.model, path) == part for path in weights.leaves):
        return "not there"
    there = weights.model
    widths = [getattr(each, "width", 0) for each in (there, model)]
    if part != ENCODER and widths[0] != widths[1]:
        return f"{widths[0]} channels wide there, {widths[1]} here"
    if part in model.CLASSIFIERS and there.num_classes != model.num_classes:
        return f"{there.num_classes} classes there, {model.num_classes} here"
    return ""


def _require_same(weights: StoredWeights, model: Method, wanted: dict[str, Any], paths: list[str]) -> None:
    """InputError if leaves that are to be taken over have another shape, or are not there."""
    there = weights.model
    problems = [f"its encoder is {there.backbone}"] if there.backbone != model.backbone else []
    for path in [] if problems else paths:
        leaf = weights.leaves.get(path)
        if leaf is None and path not in weights.fresh:
            problems.append(f"{path} is not there")
        elif leaf is not None and leaf.shape != wanted[path].shape:
            problems.append(f"{path} is {list(leaf.shape)}, not {list(wanted[path].shape)}")
    if problems:
        differs = [
            option for name, option in model.OPTIONS.items() if getattr(there, name, None) != getattr(model, name)
        ]
        raise InputError(
            weights.source,
            f"holds {there.public_name}, which does not fit {model.public_name} with these settings: "
            f"{first_few(problems, 5, '; ')}",
            f"set {', '.join(differs)} as it was trained, or give other weights",
        )
