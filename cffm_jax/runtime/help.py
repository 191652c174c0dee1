"""The help of a command: its common options, or all, by section."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import re
import shutil
import textwrap
import typing
from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

_LEFT = 27
"""Where the text about an option begins."""
_WIDEST = 100


class Option(NamedTuple):
    """An option as it is shown.

    Attributes:
      name: dotted, as on the command line: "train.batch_size".
      metavar: what it takes; "" of a flag.
      default: its value without the option.
      about: its docstring.
      positional: it has no name on the command line.
    """

    name: str
    metavar: str
    default: Any
    about: str
    positional: bool = False

    @property
    def call(self) -> str:
        """How it is given."""
        if self.positional:
            return self.name.upper() + (" ..." if self.metavar.endswith("...") else "")
        dashed = self.name.replace("_", "-")
        section, _, last = dashed.rpartition(".")
        no = f", --{section}{'.' if section else ''}no-{last}" if self.default is True else ""
        return f"--{dashed}{no} {self.metavar}".rstrip()

    @property
    def text(self) -> str:
        """What it is about, with its default where there is one that says anything."""
        if self.default is None or self.default is False or self.default in ("", ()):
            return self.about
        words = self.default if isinstance(self.default, tuple) else (self.default,)
        return f"{self.about} (default: {'on' if self.default is True else ' '.join(map(str, words))})"


def help_text(
    program: str, description: str, options: Iterable[Option], common: Collection[str] = (), about: Any = None
) -> str:
    """Usage, description, and the options by section.

    Args:
      program: its name.
      description: what it does, in paragraphs.
      options: those without a section are shown in any case.
      common: names of those of sections that are shown; (): all are.
      about: words about sections, by name.
    """
    width = min(_WIDEST, shutil.get_terminal_size().columns) - 1
    sections: dict[str, list[Option]] = {"options": []}
    for option in options:
        sections.setdefault(option.name.rpartition(".")[0] or "options", []).append(option)
    positional = " ".join(f"[{option.call}]" for option in sections["options"] if option.positional)
    lines = [" ".join(f"usage: {program} [options] {positional}".split()), "", *_paragraphs(description, width)]
    if common:
        known = f"The common options are below; --help-all has all, of {', '.join([*sections][1:])}."
        lines += ["", *textwrap.wrap(known, width)]
    for section, its in sections.items():
        shown = [option for option in its if not common or section == "options" or option.name in common]
        if shown:
            words = [] if common else textwrap.wrap((about or {}).get(section, ""), width - 2)
            lines += ["", section, *(f"  {line}" for line in words)]
            lines += [line for option in shown for line in _entry(option, width)]
    return "\n".join(lines)


def _entry(option: Option, width: int) -> Iterator[str]:
    text = textwrap.wrap(option.text, width - _LEFT)
    call = f"  {option.call}"
    if len(call) > _LEFT - 2 or not text:
        yield call
    else:
        yield call.ljust(_LEFT) + text.pop(0)
    for line in text:
        yield " " * _LEFT + line


def _paragraphs(text: str, width: int) -> Iterator[str]:
    """The text's paragraphs, filled; those that are indented as they are."""
    for number, paragraph in enumerate(re.split(r"\n\s*\n", inspect.cleandoc(text))):
        yield from [""] * bool(number)
        yield from paragraph.splitlines() if paragraph.startswith(" ") else textwrap.wrap(_plain(paragraph), width)


def metavar_in_words(metavar: str) -> str:
    """tyro's word for the values of an option, shorter: ``[INT [INT ...]]`` is INT ..."""
    metavar = re.sub(r"\[([^\s\[\]]+) \[\1 \.\.\.\]\]", r"\1 ...", metavar.replace("{None}|", ""))
    return re.sub(r"^\{([^,{}]*)\}$", r"\1", metavar.removeprefix("[").removesuffix("]") if "[" in metavar else metavar)


@functools.cache
def docstrings(cls: type) -> dict[str, str]:
    """The docstring below each field of a dataclass, in one line; "" is its own, if it has one."""
    own = inspect.getdoc(cls) or ""
    found = {"": "" if own.startswith(f"{cls.__name__}(") else _plain(own)}
    for part in filter(dataclasses.is_dataclass, reversed(cls.__mro__)):
        try:
            (node,) = ast.parse(textwrap.dedent(inspect.getsource(typing.cast(type, part)))).body
        except (OSError, TypeError, SyntaxError):  # Made at run time, without a source.
            continue
        body = typing.cast(ast.ClassDef, node).body
        for field, below in zip(body, body[1:]):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                    found[field.target.id] = _plain(str(below.value.value))
    return found


def _plain(text: str) -> str:
    return " ".join(text.replace("``", "").split())
