"""The classes that ``predict.py`` names and is asked for."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence

from cffm_jax.config import Config
from cffm_jax.data.layouts.classes import Classes, default_classes, read_classes
from cffm_jax.data.layouts.read import layout_of, layouts_with
from cffm_jax.errors import InputError


def classes_of(config: Config) -> Classes:
    """Names and colours of a model's classes: its dataset's if that is there, else by their number.

    124 are VSPW's, 19 Cityscapes'; one's own data (layout "folder") has "class 0", "class 1", ...
    """
    count, root, layout = config.model.num_classes, config.data.root, layout_of(config.data.layout)
    if os.path.isdir(root):
        return read_classes(root, count, layout)
    same = layouts_with(lambda each: layout.fixed_labels and len(each.class_names) == count)
    return default_classes(count, layout_of(same[0]) if same else layout)


def chosen_classes(wanted: Sequence[str], names: Sequence[str]) -> tuple[int, ...]:
    """Indices of the wanted classes in ascending order; all if none is named.

    A class is named by index or name, in any case, with spaces or underscores; commas separate too.

    Raises:
      InputError: there is no such class, or several.
    """
    indices = [str(k) for k in range(len(names))]
    plain = [_plain(name) for name in names]
    chosen = set()
    for name in (part.strip() for each in wanted for part in each.split(",")):
        # First as it is written: names may differ in capitals alone.
        named = _places(name, indices) or _places(name, names) or _places(_plain(name), plain)
        if not named:
            close = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=0.6)
            hint = f"did you mean {names[plain.index(close[0])]}?" if close else f"name some of {_some(names)}"
            raise InputError("--classes", f"{name!r} is no class of this model", hint)
        if len(named) > 1:
            problem = f"{name!r} names {len(named)} classes"
            raise InputError("--classes", problem, f"give an index: {', '.join(map(str, named))}")
        chosen.add(named[0])
    return tuple(sorted(chosen)) or tuple(range(len(names)))


def _places(name: str, among: Sequence[str]) -> list[int]:
    return [k for k, each in enumerate(among) if each == name]


def _some(names: Sequence[str]) -> str:
    return ", ".join([*names[:20], *(["..."] if len(names) > 20 else [])])


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").split())
