"""What MkDocs asks for while it builds the pages: the list of messages, from the source itself."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parents[1] / "cffm_jax"
PLACE = "<!-- messages -->"
ERRORS = {"InputError", "UnreadableFile"}
AREAS = {
    "Settings and command lines": ("rules", "settings", "config", "channels", "commands", "study"),
    "Datasets": ("data",),
    "Frames and videos": ("media", "predict", "drawing"),
    "Weights": ("weights", "models"),
    "Training and checkpoints": ("training", "checkpoints"),
    "Evaluation, streams and exports": ("evaluation", "inference", "export", "tables", "metrics"),
    "Devices, processes and files": ("runtime", "errors"),
}
"""Heading -> the parts of the package whose messages stand below it."""


Values = dict[str, list[ast.expr]]


class Message(NamedTuple):
    """What a line says is wrong, and what it tells to do; "..." for what differs."""

    problem: str
    remedy: str


def on_page_markdown(markdown: str, **_: object) -> str:
    """A page with the list in the place that it names."""
    return markdown.replace(PLACE, "\n\n".join(tables())) if PLACE in markdown else markdown


def tables() -> Iterator[str]:
    """A heading and a table for each area."""
    for heading, parts in AREAS.items():
        rows = sorted({message for part in parts for message in messages_of(part)})
        lines = (f"| {_cell(each.problem)} | {_cell(each.remedy)} |" for each in rows)
        yield "\n".join([f"### {heading}\n", "| what is wrong | what to do |", "|---|---|", *lines])


def messages_of(part: str) -> Iterator[Message]:
    """The messages of a part of the package: a folder, or a file."""
    path = PACKAGE / part
    for file in sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        yield from _messages(tree, [_assigned(tree)])


def _messages(node: ast.AST, known: list[Values]) -> Iterator[Message]:
    for child in ast.iter_child_nodes(node):
        inner = [*known, _assigned(child)] if isinstance(child, ast.FunctionDef) else known
        if isinstance(child, ast.Call) and isinstance(child.func, ast.Name) and child.func.id in ERRORS:
            texts = [_text(argument, inner, child.lineno) for argument in child.args[1:]]
            if len(texts) == 2 and texts[0].strip(". "):
                yield Message(*texts)
        yield from _messages(child, inner)


@functools.cache
def _constants() -> Values:
    """What files import from each other."""
    values: Values = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        found = _assigned(ast.parse(file.read_text(encoding="utf-8")))
        values |= {name: each for name, each in found.items() if name.isupper()}
    return values


def _assigned(scope: ast.AST) -> Values:
    """Name -> all that is assigned to it within a scope, in the order of the lines."""
    values: Values = {}
    for node in ast.walk(scope):
        if not isinstance(node, ast.Assign):
            continue
        [target, *_], value = node.targets, node.value
        if isinstance(target, ast.Name):
            values.setdefault(target.id, []).append(value)
        elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for name, each in zip(target.elts, value.elts, strict=False):
                if isinstance(name, ast.Name):
                    values.setdefault(name.id, []).append(each)
    return {name: sorted(each, key=lambda value: value.lineno) for name, each in values.items()}


def _value(name: str, known: list[Values], line: int) -> ast.expr | None:
    """What a name stands for in a line: the last assigned before it, in the nearest scope."""
    for values in reversed(known):
        before = [value for value in values.get(name, ()) if value.lineno <= line]
        if before:
            return before[-1]
    return next(iter(_constants().get(name, ())), None)


def _text(node: ast.expr, known: list[Values], line: int, depth: int = 3) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_text(part, known, line, depth) for part in parts)
        case ast.FormattedValue(value=value):
            return str(value.value) if isinstance(value, ast.Constant) else _text(value, known, line, depth)
        case ast.BinOp(left=left, right=right, op=ast.Add()):
            return _text(left, known, line, depth) + _text(right, known, line, depth)
        case ast.IfExp(body=body):
            return _text(body, known, line, depth)
        case ast.Name(id=name) if depth:
            value = _value(name, known, line)
            return _text(value, known, line, depth - 1) if value is not None else "..."
    return "..."


def _cell(text: str) -> str:
    """Text as it is, within a table."""
    escaped = " ".join(text.split())
    for sign in "\\`*_{}[]<>#|":
        escaped = escaped.replace(sign, f"\\{sign}")
    return escaped
