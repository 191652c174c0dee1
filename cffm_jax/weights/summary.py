"""What a file of weights holds, in a few lines for people."""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Mapping, Sequence

from cffm_jax.models.encoders.names import ENCODER
from cffm_jax.weights.described import Held
from cffm_jax.weights.files.read import WeightFile
from cffm_jax.weights.files.stored_array import StoredArray

SHOWN = 12
"""Names of a list that are printed; the others are counted."""


def description(held: Held) -> str:
    """Lines about weights: what, whose, how many, what is missing. Reads none of them."""
    model, file = held.model, held.file
    what = f"an encoder alone ({model.backbone})" if held.part == ENCODER else model.public_name
    rows = [("format", "checkpoint of a run (Orbax)" if file is None else f"{file.format}, {_size(file)}")]
    rows += [("origin", held.origin), ("model", what), ("backbone", model.backbone)]
    if held.part != ENCODER:
        rows.append(("classes", str(model.num_classes)))
    rows.append(("parameters", f"{held.parameters:,} of the model, {_types(held)}"))
    rows.append(("fits", "all that the model needs is there" if not held.problems else "NO: " + _some(held.problems)))
    if held.fresh:
        rows.append(("starts afresh", _some(held.fresh)))
    rows.append(("dead keys", _some(held.dead)))
    rows.append(("ignored", _some(held.ignored)))
    rows.append(("licence", held.licence or "not known"))
    return "\n".join([held.source, *(f"  {name:<14}{value}" for name, value in rows)])


def _types(held: Held) -> str:
    arrays: Iterable[StoredArray] = held.file.arrays.values() if held.file else held.leaves.values()
    counts: collections.Counter[str] = collections.Counter()
    for array in arrays:
        counts[array.dtype.name] += math.prod(array.shape)
    there = ", ".join(f"{count:,} {name}" for name, count in counts.most_common())
    return f"{there} in the file" if held.file else there


def _size(file: WeightFile) -> str:
    return f"{sum(path.stat().st_size for path in file.files) / 1e6:,.1f} MB"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more or "nothing"


def description_of_centres(source: str, found: Mapping[str, StoredArray]) -> str:
    """Lines about prototypes of videos."""
    shapes = collections.Counter(array.shape for array in found.values())
    rows = [
        ("format", "prototypes of the authors' CFFM++ (cluster_centers)"),
        ("videos", f"{len(found):,}"),
        ("shapes", ", ".join(f"{count:,} of {list(shape)}" for shape, count in shapes.most_common(SHOWN))),
    ]
    return "\n".join([source, *(f"  {name:<14}{value}" for name, value in rows)])
