"""Finds the weights of a known model in a file, under any prefix, and chooses one of several sets.

Wrappers put names before those of a model (``module.``, ``_orig_mod.``, the attribute of a
Lightning module), or among them where a part alone is wrapped; averages lie beside the weights.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from cffm_jax.errors import InputError
from cffm_jax.models.create import FOREIGN_NAMES
from cffm_jax.models.encoders import names as encoders
from cffm_jax.models.foreign.names import MethodNames, Origin
from cffm_jax.weights.files.stored_array import StoredArray, printable
from cffm_jax.weights.naming.foreign import Foreign
from cffm_jax.weights.naming.origins import Naming, known_names

RULE = "one without ema, swa, average or teacher in its name comes first, a plain name before a prefix"
"""How one of several sets is chosen; where it leaves two, the file is refused."""

_WRAPPERS = r"(?<![^.])(?:_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
"""Names of no layer, but of the wrappers of torch, anywhere in a key."""
_WRAPPER, _WRAPPERS_AT_END = re.compile(_WRAPPERS), re.compile(rf"(?:{_WRAPPERS})+$")
_AVERAGE = re.compile(r"(?:^|[._])(?:ema|swa|avg|averaged?|averaging|shadow|teacher)(?:[._]|$)", re.IGNORECASE)
_HOOK = "ema_"
"""Before the names of mmcv's averages, in which underscores stand for the dots."""

_FEWEST = 16
"""Keys with the marks of an origin below a prefix that is looked at; a whole encoder has fifty."""
_PREFIXES = 16
"""How many prefixes are looked at, those with the most such keys."""


class Named(NamedTuple):
    """A state dict of a file by its place there.

    Attributes:
      name: of the entry that holds it; "" for the whole file.
      known: whether that is a usual name for weights: the first such comes first.
      arrays: by the file's keys.
    """

    name: str
    known: bool
    arrays: Mapping[str, StoredArray]


class Chosen(NamedTuple):
    """The weights of a file.

    Attributes:
      name: of the entry that holds them.
      foreign: what they are.
      others: what other sets of weights there are.
      asked: whether they were asked for by name.
    """

    name: str
    foreign: Foreign
    others: tuple[str, ...]
    asked: bool = False

    @property
    def taken(self) -> str:
        """Which weights were taken, in words; "" where there were no others and no prefix."""
        if self.others:
            why = "as asked" if self.asked else RULE
            return f"{label(self.name, self.foreign)}, not {', '.join(self.others)} ({why})"
        return f"what is under {self.foreign.under}" if self.foreign.under else ""


def label(name: str, foreign: Foreign) -> str:
    """A set of weights in words."""
    parts = [name] * bool(name) + [f"{foreign.under}*"] * bool(foreign.under)
    return ": ".join(parts) or "the plain names"


def recognise(arrays: Mapping[str, StoredArray], source: object) -> Foreign:
    """The weights of a known model in one state dict, as `choose`."""
    return choose([Named("", True, arrays)], source).foreign


def choose(state_dicts: Sequence[Named], source: object, take: str = "", stated: str = "") -> Chosen:
    """The weights of a known model in a file, chosen by ``RULE`` where there are several.

    Args:
      state_dicts: all of the file.
      source: what to name in errors.
      take: the name of one set, as messages print it; default: by the rule.
      stated: what the file says that it is, for the message where it is nothing known.

    Raises:
      InputError: there are none, or several that the rule does not tell apart, or not those.
    """
    sets = [(i, each, foreign) for i, each in enumerate(state_dicts) for foreign in _sets(each.arrays)]
    candidates = [(i, each, foreign) for i, each, foreign in sets if foreign.has_blocks]
    if not candidates:
        some = ", ".join(printable(key) for each in state_dicts for key in list(each.arrays)[:3]) or "nothing"
        said = f"; its config.json says {printable(stated)}" if stated else ""
        problem = f"holds no weights of a model that is known here ({printable(some)}, ...{said})"
        raise InputError(source, problem, f"known are {', '.join(known_names())}")
    fitting = [(i, each, foreign) for i, each, foreign in candidates if foreign.fits]
    if not fitting:  # Damaged, or of an unknown size: the most complete one is compared.
        _, each, foreign = max(candidates, key=lambda entry: len(entry[2].arrays))
        return Chosen(each.name, foreign, ())

    def rank(entry: tuple[int, Named, Foreign]) -> tuple[bool, int, bool]:
        i, each, foreign = entry
        averaged = bool(_AVERAGE.search(each.name) or _AVERAGE.search(foreign.under))
        return averaged, i if each.known else len(state_dicts), bool(_WRAPPER.sub("", foreign.under))

    first, *rest = sorted(fitting, key=rank)
    names = " and ".join(label(each.name, foreign) for _, each, foreign in fitting)
    if take:
        wanted = [entry for entry in fitting if label(entry[1].name, entry[2]) == take]
        if not wanted:
            raise InputError(source, f"holds no weights {take!r}", f"name one of {names}, or leave out --take")
        first, rest = wanted[0], [entry for entry in fitting if entry is not wanted[0]]
    elif rest and rank(rest[0]) == rank(first):
        remedy = f"name one with convert.py --take ({RULE})"
        raise InputError(source, f"holds several sets of weights: {names}", remedy)
    others = tuple(label(each.name, foreign) for _, each, foreign in rest)
    return Chosen(first[1].name, first[2], others, bool(take))


def _sets(arrays: Mapping[str, StoredArray]) -> list[Foreign]:
    """The weights below each prefix that has any; of those that fit none takes keys of another."""
    results, claimed = [], set()
    marked = _marked(arrays)
    for under in sorted(marked, key=len, reverse=True):
        origin, added = marked[under]
        below = [key for key in arrays if key.startswith(under) and key not in claimed]
        names: dict[str, str] = {}
        for key in below:
            names.setdefault(added + _WRAPPER.sub("", key.removeprefix(under)), key)
        hooked = {name: added + _HOOK + name.removeprefix(added).replace(".", "_") for name in names}
        averages = {name: names[flat] for name, flat in hooked.items() if flat in names}
        flat_names = {hooked[name] for name in averages}
        names = {name: key for name, key in names.items() if name not in flat_names}
        sets = [(under + _HOOK, averages)] if averages else []
        for prefix, its_names in (*sets, (under, names)):
            inside = set(its_names.values())
            described = {name: arrays[key] for name, key in its_names.items()}
            beside = tuple(key for key in arrays if key not in inside)
            naming = Naming(origin, _method_of(origin, its_names))
            foreign = Foreign(naming, described, its_names, added, prefix, beside)
            if foreign.fits:
                claimed |= inside
            if foreign.fits or prefix == under and (not _WRAPPER.sub("", under) or foreign.backbone):
                results.append(foreign)
    return results[::-1]


def _marked(keys: Iterable[str]) -> dict[str, tuple[Origin, str]]:
    """Prefix -> the origin whose marks most keys below have, and its own prefix if they lack it."""
    origins = encoders.origins()
    marks = re.compile("|".join(f"(?:{origin.marks})" for origin in origins))
    counts: Counter[tuple[str, int, str]] = Counter()
    for key in keys:
        for start in (0, *(dot.end() for dot in re.finditer(r"\.", key))):
            if _WRAPPER.match(key, start):
                continue
            rest = _WRAPPER.sub("", key[start:])
            if not marks.fullmatch(rest):
                continue
            for i, origin in enumerate(origins):
                if re.fullmatch(origin.marks, rest):
                    under, added = _split(key[:start], origin.prefix)
                    counts[under, i, added] += 1
    best: dict[str, tuple[Origin, str]] = {}
    for place, ((under, i, added), count) in enumerate(counts.most_common()):
        if under not in best and (count >= _FEWEST or not place) and len(best) < _PREFIXES:
            best[under] = origins[i], added
    return best


def _split(before: str, prefix: str) -> tuple[str, str]:
    """(what a wrapper put before a model's own keys, the origin's prefix if they lack it)."""
    own = _WRAPPERS_AT_END.sub("", before)
    if own == prefix or own.endswith(f".{prefix}"):
        return own.removesuffix(prefix), ""
    return before, prefix


def _method_of(origin: Origin, keys: Iterable[str]) -> MethodNames | None:
    """The method with names for most of the keys, among those that have any with its prefix."""
    methods = [method for method in FOREIGN_NAMES if any(key.startswith(method.prefix) for key in keys)]
    if len(methods) < 2:
        return methods[0] if methods else None
    return max(methods, key=lambda method: method.count_named_keys(origin.heads, keys))
