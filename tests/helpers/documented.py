"""What README and docs tell to type: every command, found in their text, and the way to run it in this process."""

import importlib
import re
import runpy
import shlex
import sys

from helpers.runs import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page.name: page.read_text() for page in PAGES}
TEXTS["train.sbatch"] = "\n".join(("```", (ROOT / "docs" / "train.sbatch").read_text() + "```", ""))
APART = r"(?m)^import (ray|apache_beam)\b"
"""In a block of Python that has a test of its own (pytest -m ray)."""
COMMANDS = {"train.py": "train", "eval.py": "eval", "predict.py": "predict", "convert.py": "convert"}


def blocks_of(text):
    """Each block of code: its language, "" without one, and its lines."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def python_of(text):
    """The blocks of Python but those that have a test of their own."""
    return [block for language, block in blocks_of(text) if language == "python" and not re.search(APART, block)]


def spoken(text):
    """The lines of a page's blocks without a language, and what stands in its sentences as code."""
    for line in (line for language, block in blocks_of(text) if not language for line in block.splitlines()):
        yield re.split(r"\s{2,}#", line.removeprefix("host1$ ").removeprefix("host2$ "))[0]
    for line in re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)):
        if re.match("(python|cffm-|make) ?", line):
            yield " ".join(line.split())


def words_of(line):
    """The words of a line's command of Python, without placeholders for more of them; None: there is none."""
    place = re.search(r"(?:^|[ |])((?:python(?! -c)|cffm-\w+) .*)$", line)
    words = shlex.split(place[1].split(" | ")[0].split(";")[0]) if place else []
    fits = len(words) > 1 and "..." not in words and not any("$" in word for word in words)
    return tuple(words) if fits else None


def commands_of(text):
    """The commands of Python in a page, as words, in its order."""
    return list(dict.fromkeys(filter(None, map(words_of, spoken(text)))))


def targets_of(text):
    """What ``make`` is told to make in a page."""
    for line in spoken(text):
        word, *words = shlex.split(line.split("#")[0]) if line.startswith("make ") else [""]
        yield from (target for target in words if word == "make" and re.fullmatch(r"[a-z][\w-]*", target))


CASES = sorted({words: page for page, text in reversed(TEXTS.items()) for words in commands_of(text)}.items())
"""Each command once, with the first page that has it."""
TARGETS = sorted({target for text in TEXTS.values() for target in targets_of(text)})
"""Every target that ``make`` is told to make."""


def run(words, setattr_):
    """Runs a command in this process as its file does, but for huge pages, for which it would start anew.

    ``setattr_`` is that of a ``MonkeyPatch``."""
    if words[0].startswith("cffm-"):
        words = ("python", f"{words[0].removeprefix('cffm-')}.py", *words[1:])
    module = words[1] == "-m"
    name, *arguments = words[2:] if module else words[1:]
    setattr_(sys, "argv", [name, *arguments])
    if name in COMMANDS:
        getattr(importlib.import_module(f"cffm_jax.commands.{COMMANDS[name]}"), f"{COMMANDS[name]}_command")(arguments)
    elif module:
        inside = importlib.util.find_spec(name).submodule_search_locations
        return importlib.import_module(f"{name}.__main__" if inside else name).main(arguments)
    else:
        setattr_(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
        runpy.run_path(str(ROOT / name), run_name="__main__")
    return 0
