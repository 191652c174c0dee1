"""The programs of docs/many_videos.md for Ray Data and Apache Beam, as they stand there, give what predict.py does."""

import csv
import re
import shutil
import tempfile

import numpy as np
import pytest
from PIL import Image

from cffm_jax import create_model, export_state_dict
from cffm_jax.weights.files.write import write_safetensors

from helpers.documented import APART, TEXTS, blocks_of
from helpers.drawn import lively
from helpers.films import film, picture
from helpers.runs import ROOT, ended, files, seeing, started

pytestmark = pytest.mark.ray
PROGRAMS = {found[1]: block for _, block in blocks_of(TEXTS["many_videos.md"]) if (found := re.search(APART, block))}
"""Package -> the page's block."""
HERE = {
    "overlay=False": "overlay=False, frame_size=(64, 64)",
    "ray.init()": "ray.init(num_cpus=2, num_gpus=2, include_dashboard=False)",
}
"""What a reader sets too; Ray is told of GPUs that are not there, which JAX is not asked for."""
NAMES = {"a/0": 3, "a/1": 5, "b/0": 4, "b/1": 4, "c": 6}


def said(*arguments, status=0):
    """Standard output of a program on one device. Ray neither reports nor keeps anything."""
    # A short path: Ray's sockets lie below it.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        ray = {"RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
        [(was, out, err)] = ended([started(*arguments, env={**seeing(1), "PYTHONPATH": str(ROOT), **ray})])
    assert was == status, out + err
    return out


def predicted(folder, output, status):
    """What predict.py says of the videos."""
    options = ("--checkpoint", folder / "cffm_b1.safetensors", "--no-overlay", "--frame_size", 64, 64)
    return said("predict.py", folder / "videos", *options, "--output", output, status=status)


def written(folder):
    """Every mask and share below a folder."""
    paths = [*folder.rglob("masks/*.png"), *folder.rglob("shares.csv")]
    return {path.relative_to(folder): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """videos/, of which one is none, weights, and alone/, by predict.py."""
    folder = tmp_path_factory.mktemp("shared")
    for number, (name, count) in enumerate(NAMES.items()):
        path = folder / "videos" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        film(path, count, pictures=[picture(number=9 * number + i) for i in range(count)])
    (folder / "videos" / "b" / "broken.mp4").write_bytes(b"no video")
    model = create_model("segformer_b0", num_classes=3)
    write_safetensors(folder / "cffm_b1.safetensors", export_state_dict(lively(model), model))
    assert "5 videos, 22 frames, 1 failed" in predicted(folder, folder / "alone", 1)
    masks = [np.asarray(Image.open(path)) for path in sorted((folder / "alone").rglob("masks/*.png"))]
    assert len(masks) == 22 and len(np.unique(masks)) > 1
    return folder


@pytest.mark.parametrize("package", ["ray", "apache_beam"])
def test_the_program_of_the_page(package, shared, tmp_path):
    """What is there is left, what fails is told, and predict.py finds nothing left to do."""
    out, program = tmp_path / "masks", tmp_path / "program.py"
    shutil.copytree(shared / "alone" / "c", out / "c")
    before = {path: path.stat().st_mtime_ns for path in files(out)}
    text = PROGRAMS[package].replace("/shared/masks", str(out)).replace("/shared", str(shared))
    for page, here in HERE.items():
        text = text.replace(page, here)
    program.write_text(text)
    printed = said(program)
    assert written(out) == written(shared / "alone")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with (shared / "alone" / "failed.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    if package == "ray":
        assert "5 videos, 16 frames, 1 failed" in printed
        assert (out / "failed.csv").read_bytes() == (shared / "alone" / "failed.csv").read_bytes()
    else:
        assert (out / "failed.txt").read_text() == f"{row['error']}\n"
    assert "0 videos, 0 frames, 5 were there, 1 failed" in predicted(shared, out, 1)
