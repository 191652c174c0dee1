"""A dataset's class file: ``classes.txt``, a name a line, or ``classes.json``.

The latter holds a list of names or ``{"names": [...], "colours": [[r, g, b], ...], "ignored": 255,
"ignored_colour": [r, g, b]}``, of which all but the names may be left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cffm_jax.config import IGNORED_LABEL
from cffm_jax.data.layouts.names import in_other_case
from cffm_jax.errors import InputError

NAMES = ("classes.txt", "classes.json")


class ClassFile(NamedTuple):
    """The contents of a class file.

    Attributes:
      path: of the file.
      names: of the classes, in the order of their indices.
      colours: u8[K,3], RGB; None: not stated.
      ignored: label of the pixels that do not count; None: not stated.
      ignored_colour: u8[3], their colour in palettes; None: not stated.
    """

    path: Path
    names: tuple[str, ...]
    colours: np.ndarray | None = None
    ignored: int | None = None
    ignored_colour: np.ndarray | None = None


def ignored_label(root: str | Path) -> int:
    """The label that the layout folder's masks ignore: what the class file states, else 255.

    Raises:
      InputError: the class file cannot be used.
    """
    stated = read_class_file(root)
    return IGNORED_LABEL if stated is None or stated.ignored is None else stated.ignored


def read_class_file(root: str | Path) -> ClassFile | None:
    """Reads the class file of a dataset's folder; None if there is none.

    Raises:
      InputError: it cannot be used, there are two, or there is one of another kind.
    """
    places = [Path(root) / name for name in NAMES]
    paths = [path for path in places if path.exists()]
    if len(paths) > 1:
        raise InputError(paths[0], "is there beside classes.json", "remove one of the two")
    _require_known(places)
    if not paths:
        return None
    path = paths[0]
    remedy = "write one class name a line" if path.suffix == ".txt" else "make it a JSON list of class names"
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".txt":
            return ClassFile(path, _names(path, _lines(path, text)))
        tree = json.loads(text, object_pairs_hook=_each_key_once)
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(path, f"cannot be read ({reason})", remedy) from error
    if not isinstance(tree, dict):
        return ClassFile(path, _names(path, tree))
    unknown = sorted(set(tree) - {"names", "colours", "ignored", "ignored_colour"})
    if unknown or "names" not in tree:
        problem = f"has a key {unknown[0]!r}" if unknown else 'has no "names"'
        remedy = 'give "names" and, if you like, "colours", "ignored" and "ignored_colour"'
        raise InputError(path, problem, remedy)
    names = _names(path, tree["names"])
    colours, ignored = tree.get("colours"), tree.get("ignored")
    if ignored is not None and not _is_byte(ignored):
        raise InputError(path, f'"ignored" is {ignored!r}', "give a label in 0..255")
    colours = None if colours is None else _colours(path, colours, len(names))
    return ClassFile(path, names, colours, ignored, _ignored_colour(path, tree.get("ignored_colour"), colours))


def _lines(path: Path, text: str) -> list[str]:
    """The names in the lines of a file; those at its end may be blank."""
    lines = [line.strip() for line in text.rstrip().splitlines()]
    if "" in lines:
        problem = f"has a blank line {lines.index('') + 1} between names: it leaves open whether a class has none"
        raise InputError(path, problem, "remove it, or give the class a name")
    return lines


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of JSON's pairs. ValueError: it has a key twice."""
    double = first_double([key for key, _ in pairs])
    if double:
        raise ValueError(f"the key {double!r} is there twice")
    return dict(pairs)


def _require_known(places: Sequence[Path]) -> None:
    """InputError for a file beside them that would go unread: Classes.txt, classes.yaml."""
    for path in places:
        close = in_other_case(str(path))
        if close:
            problem, remedy = f"is no {path.name}: capitals count", f"rename it {path.name}, or remove it"
            raise InputError(path.with_name(close), problem, remedy)
    for path in sorted(places[0].parent.glob("*")):
        known = path.name.lower() in NAMES or path.name.endswith("~")  # An editor's copy.
        if path.stem.lower() == "classes" and not known and path.is_file():
            problem = "is no class file that is read here"
            raise InputError(path, problem, f"write {' or '.join(NAMES)}, and name this one otherwise")


def _names(path: Path, names: Any) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(path, "is not a list of names", "make it a JSON list of class names")
    if not 1 <= len(names) < IGNORED_LABEL:
        raise InputError(path, f"names {len(names)} classes", f"name 1 to {IGNORED_LABEL - 1}")
    double = first_double([name.strip() for name in names])
    if double:
        places = [k for k, name in enumerate(names) if name.strip() == double]
        problem = f"names the classes {' and '.join(map(str, places[:2]))} both {double!r}"
        raise InputError(path, problem, "give each class a name of its own")
    return tuple(names)


def first_double(names: Sequence[str]) -> str:
    """The first name that stands there twice, "" for none."""
    return next((name for k, name in enumerate(names) if name in names[:k]), "")


def _colours(path: Path, colours: Any, count: int) -> np.ndarray:
    """u8[K,3] of a JSON list of K lists of three."""
    rows = colours if isinstance(colours, list) else []
    if len(rows) != count or not all(isinstance(c, list) and len(c) == 3 and all(map(_is_byte, c)) for c in rows):
        problem = f'"colours" is not a list of {count} times three numbers in 0..255'
        raise InputError(path, problem, "give each class a colour [r, g, b]")
    return np.array(rows, np.uint8)


def _ignored_colour(path: Path, colour: Any, colours: np.ndarray | None) -> np.ndarray | None:
    """u8[3], no class's."""
    if colour is None:
        return None
    remedy = "give a colour [r, g, b] that no class has"
    if not (isinstance(colour, list) and len(colour) == 3 and all(map(_is_byte, colour))):
        raise InputError(path, '"ignored_colour" is not three numbers in 0..255', remedy)
    if colours is None:
        raise InputError(path, 'states "ignored_colour" without "colours"', 'give each class a colour in "colours"')
    if (colours == colour).all(1).any():
        raise InputError(path, f'"ignored_colour" {colour} is a class\'s too', remedy)
    return np.array(colour, np.uint8)


def _is_byte(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255
