"""The classes that ``predict.py`` is asked for."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from cffm_jax.data.layouts.classes import plain_name
from cffm_jax.errors import InputError, first_few


def chosen_classes(wanted: Sequence[str], names: Sequence[str]) -> tuple[int, ...]:
    """Indices of the wanted classes in ascending order; all if none is named.

    A class is named by index or name, in any case, with spaces or underscores; commas separate too.

    Raises:
      InputError: there is no such class, or several.
    """
    indices = [str(k) for k in range(len(names))]
    plain = [plain_name(name) for name in names]
    chosen = set()
    for name in (part.strip() for each in wanted for part in each.split(",")):
        # First as it is written: names may differ in capitals alone.
        named = _places(name, indices) or _places(name, names) or _places(plain_name(name), plain)
        if not named:
            close = difflib.get_close_matches(plain_name(name), plain, n=1, cutoff=0.6)
            hint = f"did you mean {names[plain.index(close[0])]}?" if close else f"name some of {first_few(names, 20)}"
            raise InputError("--classes", f"{name!r} is no class of this model", hint)
        if len(named) > 1:
            problem = f"{name!r} names {len(named)} classes"
            raise InputError("--classes", problem, f"give an index: {', '.join(map(str, named))}")
        chosen.add(named[0])
    return tuple(sorted(chosen)) or tuple(range(len(names)))


def _places(name: str, among: Sequence[str]) -> list[int]:
    return [k for k, each in enumerate(among) if each == name]
