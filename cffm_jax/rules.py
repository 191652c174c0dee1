"""Rules of an option beside its type, default and help: stated beside the field, in its metadata.

    steps: int = setting(160_000, least=1)

Names are dotted: ``train.steps`` is the field ``steps`` of the field ``train``.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import typing
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from cffm_jax.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
Options = TypeVar("Options", bound="DataclassInstance")
_KEY = "cffm_jax"
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""How gs://bucket/run begins, and what pathlib makes of it: gs:/bucket/run."""


@dataclasses.dataclass(frozen=True)
class About:
    """The rule for the value of an option, and what the option goes with.

    Attributes:
      least, most, above, below, multiple_of: bounds of the number, or of each number of a tuple.
      ascending: the numbers of a tuple are a range: none is below the one before it.
      lengths: how many numbers a tuple may have; (): any.
      goes_with: dotted names of settings that the value must fit: that rule stands once, beside the
        section.
      problem: what is wrong with a value that breaks the rule: ``{}`` is the value, ``{numbers}``
        those of a tuple.
      remedy: what to do about it; "": the bounds in words.
      changes: what another value changes: what a run trains, the figures of an evaluation alone, or
        no figure.
      of_weights: of a section other than ``model``: weights are for this value alone.
      any_weights: an evaluation may have another value than the training of its weights.
      part: its only readers: some methods (`models.methods.method.Method.settings_read`), or the
        loader of the clips.
      reads_only_with: dotted names of settings, of which one has to be other than 0, or given, for
        this one to be read.
      reads_only_if: a setting's dotted name and its value, without which this one is not read.
      evaluated: of a section: an evaluation reads it.
      set_by_study: the study sets it for each of its runs.
      only_with, not_with: another option of the command, without which, or with which, this one has
        no use.
      not_with_because: what is said then: the problem and the remedy.
      path: it names a file or a folder, or each of a tuple does, see `with_paths`.
      hub: of a path: it names weights, for which hf:owner/name of the Hugging Face hub will do.
      place: it names what is written, where nothing else may lie.
      formerly: of two sides, their earlier name: under it they are stored the width first.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    multiple_of: int | None = None
    ascending: bool = False
    lengths: tuple[int, ...] = ()
    goes_with: tuple[str, ...] = ()
    problem: str = "is {}"
    remedy: str = ""
    changes: Literal["training", "figures", "nothing"] = "training"
    of_weights: bool = False
    any_weights: bool = False
    part: Literal["", "method", "loader"] = ""
    reads_only_with: tuple[str, ...] = ()
    reads_only_if: tuple[str, Any] | tuple[()] = ()
    evaluated: bool = False
    set_by_study: bool = False
    only_with: str = ""
    not_with: str = ""
    not_with_because: tuple[str, str] = ("", "")
    path: bool = False
    hub: bool = False
    place: bool = False
    formerly: str = ""

    @property
    def bounded(self) -> bool:
        """Whether there is a rule for its value."""
        bounds = (self.least, self.most, self.above, self.below, self.multiple_of)
        return bool(self.goes_with) or any(bound is not None for bound in bounds)

    def allows(self, value: Any) -> bool:
        """Whether a number, or each of a tuple, keeps within the bounds."""
        numbers = value if isinstance(value, tuple) else (value,)
        in_order = not self.ascending or list(numbers) == sorted(numbers)
        return in_order and (not self.lengths or len(numbers) in self.lengths) and all(map(self._allows, numbers))

    def _allows(self, number: float) -> bool:
        # Put so that nan, which is neither more nor less, breaks every bound.
        return (
            (not self.bounded or abs(number) < math.inf)
            and (self.least is None or number >= self.least)
            and (self.most is None or number <= self.most)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
            and (self.multiple_of is None or number % self.multiple_of == 0)
        )

    def in_words(self) -> str:
        """The remedy, or the bounds in words."""
        bounds = {
            "at least": self.least,
            "more than": self.above,
            "at most": self.most,
            "less than": self.below,
            "a multiple of": self.multiple_of,
        }
        words = " and ".join(f"{k} {v:g}" for k, v in bounds.items() if v is not None) or "a finite number"
        return self.remedy or f"give {words}{', the smaller number first' if self.ascending else ''}"


def setting(default: T, **about: Any) -> T:
    """A dataclass field with this default; ``about``: attributes of `About`."""
    return dataclasses.field(default=default, metadata={_KEY: About(**about)})  # pyrefly: ignore[bad-return]  # A Field, as the stubs of `field` hide.


def required(**about: Any) -> Any:
    """A dataclass field without a default; ``about`` as for `setting`."""
    return dataclasses.field(metadata={_KEY: About(**about)})


def about(cls: type) -> dict[str, About]:
    """All options of a dataclass and its sections, by dotted name; a section's ``part`` and
    ``evaluated`` are those of its fields."""
    known, types = {}, typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        here = field.metadata.get(_KEY, About())
        if not dataclasses.is_dataclass(types[field.name]):
            known[field.name] = here
            continue
        for name, below in about(types[field.name]).items():
            inherited = {"part": below.part or here.part, "evaluated": here.evaluated}
            known[f"{field.name}.{name}"] = dataclasses.replace(below, **inherited)
    return known


def earlier_names(cls: type) -> dict[str, str]:
    """The dotted names of a dataclass's options that had another, by that: see `About.formerly`."""
    renamed = {name: rule.formerly for name, rule in about(cls).items() if rule.formerly}
    return {".".join((*name.split(".")[:-1], earlier)): name for name, earlier in renamed.items()}


def renamed_in_words(name: str) -> str:
    """What to say of the earlier name of an option, of this dotted name now."""
    return f"is {option_name(name)} now, the height before the width"


def values(section: Any) -> dict[str, Any]:
    """The values of a dataclass instance and its sections, by dotted name."""
    flat = {}
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        below = values(value) if dataclasses.is_dataclass(value) else None
        flat |= {field.name: value} if below is None else {f"{field.name}.{name}": v for name, v in below.items()}
    return flat


def with_changes(section: Options, changes: Iterable[tuple[str, object]]) -> Options:
    """The dataclass instance with values by dotted name changed. AttributeError or TypeError on a
    name that is none."""
    for name, value in changes:
        field, _, below = name.partition(".")
        if below:
            value = with_changes(getattr(section, field), [(below, value)])
        section = dataclasses.replace(section, **{field: value})
    return section


def option_name(name: str) -> str:
    """An option by the name of its field, as ``--help`` has it: --train.batch-size."""
    return f"--{name.replace('_', '-')}"


def with_paths(options: Options, shown: Callable[[str], str] = option_name) -> Options:
    """The options with ``~`` expanded in all that name files and folders (`About.path`, ``place``).

    Args:
      shown: from an option's dotted name to what messages call it.

    Raises:
      InputError: one names an address, such as gs://bucket/run, or hf:owner/name where no weights
        are read, of which a folder of that name would be made here; or the home of a user that
        there is not.
    """
    rules, changes = about(type(options)), []
    for name, value in values(options).items():
        if (rules[name].path or rules[name].place) and isinstance(value, str | tuple):
            each = (value,) if isinstance(value, str) else value
            paths = tuple(local_path(shown(name), path, rules[name]) for path in each)
            changes.append((name, paths[0] if isinstance(value, str) else paths))
    return with_changes(options, changes)


def local_path(option: str, value: str, rule: About = About()) -> str:
    """The path that an option names, as of `with_paths`."""
    remedy = rule.remedy or "name a place on this machine, copied or mounted (./ before a local name that looks so)"
    if rule.hub and value.startswith("hf:/"):
        raise InputError(option, f"is {value}", "write hf:owner/name for weights of the Hugging Face hub")
    if not rule.hub and value.startswith("hf:"):
        problem = f"is {value}, and the Hugging Face hub is asked for nothing but the weights that are read"
        raise InputError(option, problem, remedy)
    if _ADDRESS.match(value):
        raise InputError(option, f"is {value}, and only files and folders of this machine can be used", remedy)
    expanded = os.path.expanduser(value)
    if expanded.startswith("~") and not os.path.lexists(expanded):
        raise InputError(option, f"is {value}, and there is no such user", f"give ./{value} for a name that begins so")
    return expanded


def require_value(name: str, value: Any, rule: About) -> None:
    """InputError if the rule forbids a value of an option, of this dotted name."""
    if not rule.allows(value):
        numbers = " ".join(map(str, value)) if isinstance(value, tuple) else value
        each = value if isinstance(value, tuple) else (value,)
        finite = all(math.isfinite(number) for number in each if isinstance(number, int | float))
        remedy = rule.in_words() if finite or rule.remedy else "give a finite number"
        raise InputError(option_name(name), rule.problem.format(numbers, numbers=numbers), remedy)


def require_values(section: Any, prefix: str = "", part: str = "") -> None:
    """InputError for the first field, of those that only ``part`` reads if that is given, with a
    value that its rule or its type's choice of values forbids; ``prefix``: of the section,
    "train."."""
    types = typing.get_type_hints(type(section))
    for name, rule in about(type(section)).items():
        if "." in name or (part and rule.part != part):
            continue
        value = getattr(section, name)
        require_value(prefix + name, value, rule)
        choices = typing.get_args(types[name]) if typing.get_origin(types[name]) is Literal else (value,)
        if value not in choices:
            raise InputError(option_name(prefix + name), f"is {value!r}", f"give one of {', '.join(choices)}")


def require_together(options: Any) -> None:
    """InputError for the first option of a command that is given with another with which it has no
    use, or without the one that it belongs to."""
    default = type(options)()
    for field in dataclasses.fields(options):
        rule = field.metadata.get(_KEY, About())
        if getattr(options, field.name) == getattr(default, field.name):
            continue
        if rule.not_with and getattr(options, rule.not_with):
            raise InputError(option_name(field.name), *rule.not_with_because)
        if rule.only_with and not getattr(options, rule.only_with):
            problem = f"has no use without {option_name(rule.only_with)}"
            raise InputError(option_name(field.name), problem, f"leave it out, or give {option_name(rule.only_with)}")
