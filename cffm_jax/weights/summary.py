"""Describes a file of weights in a few lines for people."""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Mapping, Sequence

from cffm_jax.config import ModelConfig
from cffm_jax.errors import first_few
from cffm_jax.models.encoders.names import ENCODER
from cffm_jax.rules import values
from cffm_jax.weights.described import StoredWeights
from cffm_jax.weights.files.stored_array import StoredArray
from cffm_jax.weights.files.weight_file import WeightFile

SHOWN = 12
"""Names of a list that are printed; the others are counted."""


def description(weights: StoredWeights, faults: Sequence[str] = ()) -> str:
    """Lines about weights: what, whose, how many, and their ``faults``. Reads none of them."""
    model, file = weights.model, weights.file
    contents = f"an encoder alone ({model.backbone})" if weights.part == ENCODER else model.public_name
    rows = [("format", "checkpoint of a run (Orbax)" if file is None else f"{file.format}, {_size(file)}")]
    rows += [("origin", weights.origin)] + [("taken", weights.taken)] * bool(weights.taken)
    rows += [("model", contents), ("backbone", model.backbone)]
    if not model.channels.coloured:
        each = zip(model.channels.names, model.channels.mean, model.channels.std)
        rows.append(("channels", ", ".join(f"{name} ({mean:g} +- {std:g})" for name, mean, std in each)))
    if weights.part != ENCODER:
        rows += [("classes", str(model.num_classes)), ("class names", _class_names(weights))]
    settings = _changed_settings(weights)
    rows += [("settings", settings)] if settings else []
    rows.append(("parameters", f"{weights.parameters:,} of the model, {_types(weights)}"))
    rows.append(("fits", "NO: " + _some(faults) if faults else "all that the model needs is there"))
    if weights.fresh:
        rows.append(("starts afresh", _some(weights.fresh)))
    rows.append(("dead keys", _some(weights.dead)))
    rows.append(("ignored", _some(weights.ignored)))
    rows.append(("licence", weights.licence or "not known"))
    return "\n".join([weights.source, *(f"  {name:<14}{value}" for name, value in rows)])


def _changed_settings(weights: StoredWeights) -> str:
    """The settings of the model that are not the defaults, but for what other lines say."""
    stored, usual = values(weights.config.model), values(ModelConfig())
    changed = (name for name in stored if name not in ("name", "num_classes") and stored[name] != usual[name])
    return ", ".join(f"{name} {_value(stored[name])}" for name in changed)


def _value(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _class_names(weights: StoredWeights) -> str:
    classes = weights.classes
    source = f" ({classes.source})" if classes.source else ""
    return (_some(classes.names) if classes.names else "none: called by their numbers") + source


def _types(weights: StoredWeights) -> str:
    arrays: Iterable[StoredArray] = weights.file.arrays.values() if weights.file else weights.leaves.values()
    counts: collections.Counter[str] = collections.Counter()
    for array in arrays:
        counts[array.dtype.name] += math.prod(array.shape)
    there = ", ".join(f"{count:,} {name}" for name, count in counts.most_common())
    return f"{there} in the file" if weights.file else there


def _size(file: WeightFile) -> str:
    return f"{sum(path.stat().st_size for path in file.files) / 1e6:,.1f} MB"


def _some(names: Sequence[str]) -> str:
    return first_few(names, SHOWN) or "nothing"


def description_of_centres(source: str, centres: Mapping[str, StoredArray]) -> str:
    """Lines about prototypes of videos."""
    shapes = collections.Counter(array.shape for array in centres.values())
    rows = [
        ("format", "prototypes of the authors' CFFM++ (cluster_centers)"),
        ("videos", f"{len(centres):,}"),
        ("shapes", ", ".join(f"{count:,} of {list(shape)}" for shape, count in shapes.most_common(SHOWN))),
    ]
    return "\n".join([source, *(f"  {name:<14}{value}" for name, value in rows)])
