"""Names and colours of the classes that weights were trained for, as their file or run states them.

Nothing is guessed by the number of classes, and nothing is looked up elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cffm_jax.config import Config
from cffm_jax.data.layouts.class_file import first_double
from cffm_jax.data.layouts.classes import Classes, layout_classes, numbered_classes, plain_name
from cffm_jax.data.layouts.read import layout_of
from cffm_jax.drawing.palette import colour_table
from cffm_jax.errors import first_few
from cffm_jax.weights.files.stored_array import printable

Colours = tuple[tuple[int, int, int], ...]
_SHOWN = 3
"""Differences of names that are told."""


class ClassNames(NamedTuple):
    """The classes of weights.

    Attributes:
      names: of all K; () where nothing states them.
      colours: RGB, one each; () where nothing states them.
      source: what states them, or why they are not used.
    """

    names: tuple[str, ...] = ()
    colours: Colours = ()
    source: str = ""

    def classes(self, count: int) -> Classes:
        """Names and colours for K classes, by their numbers where none are stated."""
        numbered = numbered_classes(count)
        colours = colour_table(np.array(self.colours, np.uint8)) if self.colours else numbered.colours
        return Classes(self.names or numbered.names, colours)

    def stored(self) -> dict[str, Any] | None:
        """As JSON stores them; None without names."""
        return {"names": list(self.names), "colours": [list(c) for c in self.colours]} if self.names else None

    def contradiction(self, names: Sequence[str]) -> str:
        """How the names of a dataset with as many classes differ, in words; "" if they do not."""
        differ = [k for k, (a, b) in enumerate(zip(self.names, names)) if plain_name(a) != plain_name(b)]
        pairs = first_few((f"class {k} {self.names[k]!r} and {names[k]!r}" for k in differ), _SHOWN)
        return f"the weights and the dataset call {pairs}: the dataset's names are used" if differ else ""


def of_dataset(classes: Classes | None) -> ClassNames:
    """The classes of the dataset that a run trains on."""
    if classes is None:
        return ClassNames()
    red, green, blue = classes.colours[: len(classes.names)].T.tolist()
    return ClassNames(classes.names, tuple(zip(red, green, blue, strict=True)), "its dataset")


def of_layout(config: Config) -> ClassNames:
    """Of a run whose version stored none: those of the layout that it was trained on."""
    layout = layout_of(config.data.layout)
    names = of_dataset(layout_classes(config.model.num_classes, layout))
    return names._replace(source=f"the layout {layout.name}, on which it was trained") if names.names else names


def of_stored(stored: Any, count: int, source: str) -> ClassNames:
    """The inverse of ``stored``."""
    if not isinstance(stored, Mapping):
        return ClassNames()
    return _checked(stored.get("names"), stored.get("colours"), count, source)


def of_metadata(metadata: Mapping[str, Any], count: int) -> ClassNames:
    """What others' files state: mmengine's ``dataset_meta``, MMSegmentation's ``CLASSES`` and
    ``PALETTE``, ``id2label`` of Hugging Face's config.json; the first of them that is there."""
    dataset, config = metadata.get("dataset_meta"), metadata.get("config")
    if isinstance(dataset, Mapping) and dataset.get("classes") is not None:
        return _checked(dataset["classes"], dataset.get("palette"), count, "dataset_meta")
    if metadata.get("CLASSES") is not None:
        return _checked(metadata["CLASSES"], metadata.get("PALETTE"), count, "CLASSES")
    if isinstance(config, Mapping) and isinstance(config.get("id2label"), Mapping):
        return _of_labels(config["id2label"], count)
    return ClassNames(source="config.json cannot be read" if "config" in metadata and config is None else "")


def _of_labels(labels: Mapping[Any, Any], count: int) -> ClassNames:
    source = "id2label of config.json"
    by_number = {str(key): name for key, name in labels.items()}
    if set(by_number) != {str(k) for k in range(len(by_number))}:
        return ClassNames(source=f"{source} does not number its classes 0, 1, ...")
    names = [by_number[str(k)] for k in range(len(by_number))]
    if names == [f"LABEL_{k}" for k in range(len(names))]:
        return ClassNames()  # So transformers calls classes without names.
    return _checked(names, None, count, source)


def _checked(names: Any, colours: Any, count: int, source: str) -> ClassNames:
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return ClassNames(source=f"{source} is no list of names")
    if len(names) != count:
        return ClassNames(source=f"{source} names {len(names)} classes, the model has {count}")
    rows = colours if isinstance(colours, list | tuple) else ()
    if len(rows) != count or not all(_is_colour(row) for row in rows):
        source += "" if colours is None or colours == [] else ", whose colours do not fit"
        rows = ()
    double = first_double(names)  # Harmless but to --classes, which then asks for an index.
    source += f" and names two classes {printable(double)!r}" if double else ""
    shades = tuple((int(red), int(green), int(blue)) for red, green, blue in rows)
    return ClassNames(tuple(printable(name) for name in names), shades, source)


def _is_colour(row: Any) -> bool:
    three = isinstance(row, list | tuple) and len(row) == 3
    return three and all(type(value) is int and 0 <= value <= 255 for value in row)
