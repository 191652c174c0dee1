"""Who may import whom, and what no file may hold."""

import ast
import functools
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "cffm_jax"
COMMANDS = {"train", "eval", "predict", "convert"}
DOWNWARDS = (
    "commands", "study", "training", "export", "evaluation", "predict", "inference", "media", "weights", "data",
    "checkpoints", "drawing", "tables", "runtime", "models", "metrics", "settings", "config", "channels",
    "rules", "errors",
)  # fmt: skip
"""The packages and files of ``cffm_jax``: each imports only what stands below it, or itself."""


@functools.cache
def modules_imported(path: Path) -> set[str]:
    """Full names of all modules (or members of modules) that a file imports, at any depth."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) + 1 - node.level]) if node.level else []
            base += [node.module] if node.module else []
            found |= {".".join([*base, alias.name]) for alias in node.names}
    return found


FILES = sorted((ROOT / PACKAGE).rglob("*.py"))


def part(path: Path) -> str:
    """First level below the package: data/clips.py -> data, losses.py -> losses."""
    return path.relative_to(ROOT / PACKAGE).with_suffix("").parts[0]


def parts_imported(path: Path) -> set[str]:
    ours = (name.split(".") for name in modules_imported(path))
    return {name[1] if len(name) > 1 else "__init__" for name in ours if name[0] == PACKAGE}


def test_reads_every_form_of_import(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    file = tmp_path / "cffm_jax" / "data" / "x.py"
    file.parent.mkdir(parents=True)
    file.write_text("import a.b\nfrom c import d\nfrom . import e\nfrom .f import g\ndef h():\n    from ..i import j\n")
    assert modules_imported(file) == {"a.b", "c.d", "cffm_jax.data.e", "cffm_jax.data.f.g", "cffm_jax.i.j"}


def test_the_order_names_all_parts():
    assert sorted(DOWNWARDS) == sorted({part(path) for path in FILES} - {"__init__"})


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_downwards(path):
    own = part(path)
    if own != "__init__":  # What the package's top offers to users, it loads when asked.
        below = DOWNWARDS[DOWNWARDS.index(own) :]
        above = parts_imported(path) - set(below)
        assert not above, f"{path} imports {above}, which stand above {own}"
    tops = {name.split(".")[0] for name in modules_imported(path)}
    assert not tops & (COMMANDS | {"configs", "benchmarks", "tests"})
    assert not tops & {"tensorflow", "torch", "torchvision", "transformers"}


def test_no_two_files_import_each_other():
    """No circle of files either, within a package."""
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
    uses = {}
    for module, path in names.items():
        used = {name if name in names else name.rpartition(".")[0] for name in modules_imported(path)}
        uses[module] = used & set(names) - {module}
    uses.pop(PACKAGE)
    while free := {module for module, used in uses.items() if not used & set(uses)}:
        uses = {module: used for module, used in uses.items() if module not in free}
    assert not uses, f"circles among {sorted(uses)}"


def test_holds_no_address_or_path_of_one_machine():
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    # Joined here, so that this file does not hold them itself.
    texts = ["/" + "work/", "/" + "tmp/venv", "pypi" + ".org", "pythonhosted" + ".org", "file" + ":///"]
    texts += ["/" + "opt/pypi", "/" + "opt/wheels"]
    found = []
    for name in listed.stdout.decode().split("\0"):
        path = ROOT / name
        if name and path.is_file():  # Deleted files stay listed until they are committed.
            content = path.read_bytes().lower()
            found += [f"{name}: {text}" for text in texts if text.encode() in content]
    assert not found
