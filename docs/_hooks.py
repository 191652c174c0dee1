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
        yield from _messages(tree, [_constants(), _assigned(tree)])


@functools.cache
def _constants() -> dict[str, ast.expr]:
    """What files import from each other."""
    trees = (ast.parse(file.read_text(encoding="utf-8")) for file in sorted(PACKAGE.rglob("*.py")))
    return {name: value for tree in trees for name, value in _assigned(tree).items() if name.isupper()}


def _messages(node: ast.AST, known: list[dict[str, ast.expr]]) -> Iterator[Message]:
    for child in ast.iter_child_nodes(node):
        inner = [*known, _assigned(child)] if isinstance(child, ast.FunctionDef) else known
        if isinstance(child, ast.Call) and isinstance(child.func, ast.Name) and child.func.id in ERRORS:
            texts = [_text(argument, inner) for argument in child.args[1:]]
            if len(texts) == 2 and texts[0].strip(". "):
                yield Message(*texts)
        yield from _messages(child, inner)


def _assigned(scope: ast.AST) -> dict[str, ast.expr]:
    """Name -> value of what is assigned within a scope, the first of several."""
    values: dict[str, ast.expr] = {}
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            values.setdefault(node.targets[0].id, node.value)
        elif (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Tuple)
            and isinstance(node.value, ast.Tuple)
        ):
            pairs = zip(node.targets[0].elts, node.value.elts, strict=False)
            values |= {target.id: value for target, value in pairs if isinstance(target, ast.Name)}
    return values


def _text(node: ast.expr, known: list[dict[str, ast.expr]], depth: int = 3) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_text(part, known, depth) for part in parts)
        case ast.FormattedValue(value=value) if isinstance(value, ast.Constant):
            return str(value.value)
        case ast.BinOp(left=left, right=right, op=ast.Add()):
            return _text(left, known, depth) + _text(right, known, depth)
        case ast.IfExp(body=body):
            return _text(body, known, depth)
        case ast.Name(id=name) if depth:
            value = next((values[name] for values in reversed(known) if name in values), None)
            return _text(value, known, depth - 1) if value is not None else "..."
    return "..."


def _cell(text: str) -> str:
    """Text as it is, within a table."""
    escaped = " ".join(text.split())
    for sign in "\\`*_{}[]<>#|":
        escaped = escaped.replace(sign, f"\\{sign}")
    return escaped
