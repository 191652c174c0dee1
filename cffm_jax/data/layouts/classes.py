"""Names and colours of a dataset's classes: those of its class file, or of its layout."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cffm_jax.config import Config
from cffm_jax.data.layouts.class_file import NAMES, read_class_file
from cffm_jax.data.layouts.layout import Layout
from cffm_jax.data.layouts.read import require_folder, source_of
from cffm_jax.drawing.palette import colour_table, palette
from cffm_jax.errors import InputError
from cffm_jax.rules import with_changes


class Classes(NamedTuple):
    """The classes of a dataset.

    Attributes:
      names: K names.
      colours: u8[256,3], RGB, as of `palette`.
    """

    names: tuple[str, ...]
    colours: np.ndarray


def read_classes(root: str | Path, num_classes: int, layout: str | Layout = "vspw") -> Classes:
    """Names and colours of a dataset's classes, in the order of their indices.

    Those of `stated_classes`; where there are none, `numbered_classes`.

    Raises:
      InputError: the class file cannot be used, or has not ``num_classes`` names.
    """
    return stated_classes(root, num_classes, layout) or numbered_classes(num_classes)


def stated_classes(root: str | Path, num_classes: int, layout: str | Layout = "vspw") -> Classes | None:
    """The classes that a dataset's folder states, or that its layout has; None where nothing names
    them. Records have those of what was prepared.

    Raises:
      InputError: the class file cannot be used, or has not ``num_classes`` names.
    """
    layout = source_of(layout, str(root))
    stated = read_class_file(root)
    if stated is None:
        return layout_classes(num_classes, layout)
    if len(stated.names) != num_classes:
        problem = f"names {len(stated.names)} classes, not {num_classes}"
        remedy = f"correct the file, or, for a new run, give --model.num-classes {len(stated.names)}"
        raise InputError(stated.path, problem, remedy)
    if stated.ignored is not None and layout.fixed_labels:
        problem = f'states an ignored label, but the layout "{layout.name}" fixes those'
        raise InputError(stated.path, problem, 'remove "ignored", or give --data.layout folder')
    return Classes(stated.names, palette(num_classes) if stated.colours is None else colour_table(stated.colours))


def layout_classes(num_classes: int, layout: Layout) -> Classes | None:
    """The classes of a layout that has so many."""
    if len(layout.class_names) != num_classes:
        return None
    if layout.class_colours:
        return Classes(layout.class_names, colour_table(np.array(layout.class_colours, np.uint8)))
    return Classes(layout.class_names, palette(num_classes))


def numbered_classes(num_classes: int) -> Classes:
    """Classes that nothing names: "class 0", ... in the colours of `palette`."""
    return Classes(tuple(f"class {i}" for i in range(num_classes)), palette(num_classes))


def count_classes(root: str | Path, layout: str | Layout = "vspw") -> int:
    """Number of a dataset's classes: of its class file; without one, of its layout, which may be 0.

    Raises:
      InputError: the class file cannot be used.
    """
    stated = read_class_file(root)
    return len(stated.names if stated else source_of(layout, str(root)).class_names)


def with_num_classes(config: Config) -> Config:
    """The config with the number of classes of its data, where it leaves that to them.

    Raises:
      InputError: nothing says how many there are, or the class file cannot be used.
    """
    if config.model.num_classes:
        return config
    root = config.data.root
    require_folder(root)
    count = count_classes(root, config.data.layout)
    if not count:
        problem = f"is missing: {root} has no {' or '.join(NAMES)}"
        remedy = f"name the classes in {os.path.join(root, NAMES[0])}, one a line, or give their number"
        raise InputError("--model.num-classes", problem, remedy)
    return with_changes(config, [("model.num_classes", count)])


def class_names(root: str | Path, num_classes: int, layout: str | Layout = "vspw") -> tuple[str, ...]:
    """The names alone; see `read_classes`."""
    return read_classes(root, num_classes, layout).names


def plain_name(name: str) -> str:
    """A class's name for comparisons: capitals, underscores and spaces make no difference."""
    return " ".join(name.lower().replace("_", " ").split())
