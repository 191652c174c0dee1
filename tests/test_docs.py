"""What README and docs say: every command's options are there, imports work, links and files exist."""

import argparse
import importlib
import re
import runpy
import shlex
import sys

import pytest
import tyro

from cffm_jax.runtime.command_line import CommandLine
from cffm_jax.settings import find_config

from helpers.runs import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page.name: page.read_text() for page in PAGES}
TEXTS["train.sbatch"] = f"```\n{(ROOT / 'docs' / 'train.sbatch').read_text()}```\n"
COMMANDS = {"train.py": "train", "eval.py": "eval", "predict.py": "predict", "convert.py": "convert"}


def blocks_of(text):
    """Each block of code: its language, "" without one, and its lines."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def commands_of(text):
    """The commands of Python in a page's blocks and in its lines, as words, without placeholders."""
    for line in (line for language, block in blocks_of(text) if not language for line in block.splitlines()):
        yield from words_of(re.split(r"\s{2,}#", line.removeprefix("host1$ ").removeprefix("host2$ "))[0])
    for line in re.findall(
        r"`((?:python|cffm-)[^`]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    ):
        yield from words_of(" ".join(line.split()))


def words_of(line):
    place = re.search(r"(?:^|[ |])((?:python(?! -c)|cffm-\w+) .*)$", line)
    words = shlex.split(place[1].split(" | ")[0].split(";")[0]) if place else []
    if len(words) > 1 and "..." not in words and not any("$" in word for word in words):
        yield tuple(words)


FIRST = ("README.md", "quickstart.md")
"""The pages that everybody reads."""
CASES = sorted({words: page for page, text in reversed(TEXTS.items()) for words in commands_of(text)}.items())
"""Each command once, with the first page that has it."""


class Parsed(Exception):
    pass


def run(words, monkeypatch):
    """Runs a command's line in this process."""
    if words[0].startswith("cffm-"):
        words = ("python", f"{words[0].removeprefix('cffm-')}.py", *words[1:])
    module = words[1] == "-m"
    name, *arguments = words[2:] if module else words[1:]
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    if name in COMMANDS:  # As the file does, but for huge pages, for which it would start anew.
        getattr(importlib.import_module(f"cffm_jax.commands.{COMMANDS[name]}"), f"{COMMANDS[name]}_command")(arguments)
    elif module:
        inside = importlib.util.find_spec(name).submodule_search_locations
        importlib.import_module(f"{name}.__main__" if inside else name).main(arguments)
    else:
        monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
        runpy.run_path(str(ROOT / name), run_name="__main__")


def test_there_are_commands():
    assert len(CASES) > 80
    assert {words[1] for words, _ in CASES} >= {*COMMANDS, "-m"}


@pytest.mark.parametrize(
    "words",
    [words if page in FIRST else pytest.param(words, marks=pytest.mark.long) for words, page in CASES],
    ids=" ".join,
)
def test_the_options_of_every_command_are_there(words, monkeypatch):
    """Up to the place where all of them have been read."""

    def stops(read):
        """Reads what it is to read, and goes no further."""

        def instead(*arguments, **options):
            result = read(*arguments, **options)
            if "return_unknown_args" in options:  # As `CommandLine` calls tyro.
                return result
            raise Parsed

        return instead

    for owner, name in ((CommandLine, "over"), (tyro, "cli"), (argparse.ArgumentParser, "parse_args")):
        monkeypatch.setattr(owner, name, stops(getattr(owner, name)))
    monkeypatch.setenv("GLIBC_TUNABLES", "")  # Otherwise some start anew, for huge pages.
    with pytest.raises(Parsed):
        run(words, monkeypatch)
    if "--config" in words:
        assert find_config(words[words.index("--config") + 1]).is_file()


def test_every_import_works():
    blocks = [block for text in TEXTS.values() for language, block in blocks_of(text) if language == "python"]
    lines = {line for block in blocks for line in block.splitlines() if line.startswith(("import ", "from "))}
    lines = sorted(line for line in lines if "onnxruntime" not in line)
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
