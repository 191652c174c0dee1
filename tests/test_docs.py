"""What README and docs say: every command is found, its config is there, imports work, links and files exist."""

import re
import runpy

from cffm_jax.settings import find_config

from helpers.documented import CASES, COMMANDS, TARGETS, TEXTS, python_of
from helpers.runs import ROOT


def test_there_are_commands():
    """tests/docs runs them."""
    assert len(CASES) > 80
    assert {words[1] for words, _ in CASES} >= {*COMMANDS, "-m"}
    for words, _ in CASES:
        if "--config" in words and not words[words.index("--config") + 1].startswith("runs/"):
            assert find_config(words[words.index("--config") + 1]).is_file()


def test_every_target_of_make_is_there():
    rules = re.findall(r"^([a-z][\w-]*):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert len(TARGETS) > 10 and set(TARGETS) <= set(rules)


def test_every_import_works():
    lines = {line for text in TEXTS.values() for block in python_of(text) for line in block.splitlines()}
    extra = {"import onnxruntime", "import openvino", "import nncf"}
    assert extra < lines
    lines = sorted(line for line in lines - extra if line.startswith(("import ", "from ")))
    assert len(lines) >= 3
    exec("\n".join(lines), {})


def test_paths_of_the_package_that_are_named_exist():
    for page, text in TEXTS.items():
        for path in re.findall(r"`((?:cffm_jax|configs|benchmarks|tests)/[\w/]+\.py)`", text):
            assert (ROOT / path).exists(), f"{page} names {path}"


def test_links_between_files_of_the_repository_are_there():
    """Of pages that are read outside of the site too, which checks its own."""
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        links = [link for link in re.findall(r"\]\(([^)]+)\)", page.read_text()) if "://" not in link]
        assert links or page.name == "CONTRIBUTING.md"
        for link in links:
            assert (ROOT / link.partition("#")[0]).exists(), f"{page.name} links to {link}"


def test_messages_of_the_source():
    """With what each of them tells to do, not what another does that has the same names."""
    hooks = runpy.run_path(str(ROOT / "docs" / "_hooks.py"))
    parts = [part for each in hooks["AREAS"].values() for part in each]
    there = {path.stem for path in (ROOT / "cffm_jax").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert sorted(parts) == sorted(there - {"__init__", "__pycache__"})
    found = [message for part in parts for message in hooks["messages_of"](part)]
    assert len(found) > 300
    assert ("lists no video", "write one video name a line") in found
    gated = [remedy for problem, remedy in found if problem == "is gated"]
    assert len(gated) == 1 and gated[0].startswith("ask for access at ") and gated[0].endswith("by `hf auth login`")
    assert all(problem.strip(". ") for problem, _ in found)
