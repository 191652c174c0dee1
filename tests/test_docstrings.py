"""The examples in docstrings give what they say. They are read from the source: doctest's finder misses functions that
are compiled or checked."""

import ast
import doctest
import importlib

import pytest

from helpers.runs import ROOT

FILES = [path for path in sorted((ROOT / "cffm_jax").rglob("*.py")) if ">>>" in path.read_text()]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    names = vars(importlib.import_module(name))
    run = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            where = f"{name}.{getattr(node, 'name', '')}"
            line = node.body[0].lineno - 1 if node.body else 0
            text = ast.get_docstring(node) or ""
            run.run(doctest.DocTestParser().get_doctest(text, dict(names), where, str(path), line))
    assert run.summarize(verbose=False).failed == 0
