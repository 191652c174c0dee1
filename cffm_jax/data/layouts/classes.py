"""Names and colours of classes: the only place for class lists.

A dataset folder may name its own classes, as many as the model has, in ``classes.txt``, a name a line, or in
``classes.json``, a list of names or ``{"names": [...], "colours": [[r, g, b], ...], "ignored": 255}``, of which the
last two may be left out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cffm_jax.config import IGNORED_LABEL
from cffm_jax.data.class_names import CITYSCAPES, CITYSCAPES_COLOURS, VSPW
from cffm_jax.data.layouts.records import source_layout
from cffm_jax.drawing.palette import _with_colours, palette
from cffm_jax.errors import InputError


class Classes(NamedTuple):
    """The classes of a dataset.

    Attributes:
      names: K names.
      colours: u8[256,3], RGB, as of `palette`.
    """

    names: tuple[str, ...]
    colours: np.ndarray


class _Stated(NamedTuple):
    """What a dataset's own class file says; None where it says nothing."""

    path: Path
    names: tuple[str, ...]
    colours: np.ndarray | None = None
    ignored: int | None = None


def read_classes(root: str | Path, num_classes: int, layout: str = "vspw") -> Classes:
    """Names and colours of a dataset's classes, in the order of their indices.

    Those that its folder states; else those of VSPW for 124 classes and of Cityscapes for 19 in the layout of the
    same name; else "class 0", "class 1", ... and the colours of `palette`. Records have those of what was prepared.

    Raises:
      InputError: the class file cannot be used, or has not ``num_classes`` names.
    """
    if layout == "records":
        layout = source_layout(str(root))
    stated = _stated(root)
    if stated is None:
        if layout == "cityscapes" and num_classes == len(CITYSCAPES):
            return Classes(CITYSCAPES, _with_colours(np.array(CITYSCAPES_COLOURS, np.uint8)))
        known = VSPW if layout == "vspw" and num_classes == len(VSPW) else None
        return Classes(known or tuple(f"class {i}" for i in range(num_classes)), palette(num_classes))
    if len(stated.names) != num_classes:
        problem = f"names {len(stated.names)} classes, not {num_classes}"
        raise InputError(stated.path, problem, "set model.num_classes to that, or correct the file")
    if stated.ignored is not None and layout != "folder":
        problem = f'states an ignored label, but the layout "{layout}" fixes those'
        raise InputError(stated.path, problem, 'remove "ignored", or give --data.layout folder')
    return Classes(stated.names, palette(num_classes) if stated.colours is None else _with_colours(stated.colours))


def count_classes(root: str | Path, layout: str = "vspw") -> int:
    """How many classes a dataset has: what its class file says; without one, those of VSPW or Cityscapes, else 0.

    Raises:
      InputError: the class file cannot be used.
    """
    stated = _stated(root)
    return len(stated.names) if stated else len({"vspw": VSPW, "cityscapes": CITYSCAPES}.get(layout, ()))


def class_names(root: str | Path, num_classes: int, layout: str = "vspw") -> tuple[str, ...]:
    """The names alone; see `read_classes`."""
    return read_classes(root, num_classes, layout).names


def ignored_label(root: str | Path) -> int:
    """The label that the plain layout's masks ignore: what the class file states, else 255.

    Raises:
      InputError: the class file cannot be used.
    """
    stated = _stated(root)
    return IGNORED_LABEL if stated is None or stated.ignored is None else stated.ignored


def _stated(root: str | Path) -> _Stated | None:
    """Reads the class file of a dataset's folder, if there is one."""
    paths = [path for path in (Path(root) / "classes.txt", Path(root) / "classes.json") if path.exists()]
    if len(paths) > 1:
        raise InputError(paths[0], "is there beside classes.json", "remove one of the two")
    if not paths:
        return None
    path = paths[0]
    remedy = "write one class name a line" if path.suffix == ".txt" else "make it a JSON list of class names"
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".txt":
            return _Stated(path, _names(path, [line.strip() for line in text.splitlines() if line.strip()]))
        tree = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(path, f"cannot be read ({reason})", remedy) from error
    if not isinstance(tree, dict):
        return _Stated(path, _names(path, tree))
    unknown = sorted(set(tree) - {"names", "colours", "ignored"})
    if unknown or "names" not in tree:
        problem = f"has a key {unknown[0]!r}" if unknown else 'has no "names"'
        raise InputError(path, problem, 'give "names" and, if you like, "colours" and "ignored"')
    names = _names(path, tree["names"])
    colours, ignored = tree.get("colours"), tree.get("ignored")
    if ignored is not None and not _is_byte(ignored):
        raise InputError(path, f'"ignored" is {ignored!r}', "give a label in 0..255")
    return _Stated(path, names, None if colours is None else _colours(path, colours, len(names)), ignored)


def _names(path: Path, names: Any) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(path, "is not a list of names", "make it a JSON list of class names")
    if not 1 <= len(names) < IGNORED_LABEL:
        raise InputError(path, f"names {len(names)} classes", f"name 1 to {IGNORED_LABEL - 1}")
    return tuple(names)


def _colours(path: Path, colours: Any, count: int) -> np.ndarray:
    """u8[K,3] of a JSON list of K lists of three."""
    rows = colours if isinstance(colours, list) else []
    if len(rows) != count or not all(isinstance(c, list) and len(c) == 3 and all(map(_is_byte, c)) for c in rows):
        problem = f'"colours" is not a list of {count} times three numbers in 0..255'
        raise InputError(path, problem, "give each class a colour [r, g, b]")
    return np.array(rows, np.uint8)


def _is_byte(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255
