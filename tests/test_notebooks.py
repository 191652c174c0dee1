"""The notebooks as they lie in the repository, and as they run: every cell, without a network."""

import json
import os
import re

import pytest

from helpers.notebooks import NOTEBOOKS, cells_of
from helpers.runs import ROOT, finished, seeing

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
SAID = {
    "a_new_method": ("mean_b0: mean of logits, per-frame", "IoU mean of logits", "18 masks of 96x64"),
    "fine_tune_on_your_videos": ("background:0,0,0::", "3 videos", "no problem found", "IoU CFFM", "index.html"),
    "masks_of_a_video": ("24 frames of 160x96", "cffm_b0, random: 8 classes", "VC8"),
}
"""What the cells of each print, among other things."""
WITHOUT_NETWORK = (
    "import socket, sys; socket.getaddrinfo = None; from helpers import notebooks; notebooks.execute(sys.argv[1])"
)
"""A program that runs one; what asks for an address would fail."""

every_notebook = pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])


@every_notebook
def test_it_is_stored_without_outputs_and_is_valid(path):
    """By nbformat's schema 4.5: keys, ids that differ, lists of lines."""
    tree = json.loads(path.read_text())
    assert tree.keys() == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert (tree["nbformat"], tree["nbformat_minor"]) == (4, 5)
    assert tree["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    ids = [cell["id"] for cell in tree["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", each) for each in ids)
    for cell in tree["cells"]:
        common = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            assert cell.keys() == common | {"execution_count", "outputs"}
            assert cell["outputs"] == [] and cell["execution_count"] is None
        else:
            assert cell["cell_type"] == "markdown" and cell.keys() == common
        assert cell["metadata"] == {} and all(isinstance(line, str) for line in cell["source"])
        assert all(line.endswith("\n") for line in cell["source"][:-1])


@every_notebook
def test_what_it_names_is_there(path):
    text = "\n".join(cells_of(path, "markdown"))
    for name in re.findall(r"`((?:docs|tests|cffm_jax|notebooks)/[\w/.]*)`", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"`(\w+\.ipynb)`", text):
        assert (NOTEBOOKS / name).exists(), name
    assert path.name in (ROOT / "docs" / "notebooks.md").read_text()


@pytest.mark.long
@every_notebook
def test_every_cell_runs(path, tmp_path):
    (tmp_path / "tmp").mkdir()
    (tmp_path / "kernel").mkdir()
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    env = {**seeing(1), "TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": paths}
    status, out, err = finished("-c", WITHOUT_NETWORK, path, cwd=tmp_path / "kernel", env=env)
    assert status == 0, err
    for words in SAID[path.stem]:
        assert words in out
    assert re.search(r"^shown: \w*Image\w* \(\d+, \d+\)$", out, re.MULTILINE)
    assert not list((tmp_path / "kernel").iterdir()), "nothing is left where it was opened"
