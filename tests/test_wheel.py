"""The wheel, installed alone in a clean environment: console scripts, modules and configs, away from the repository."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import cffm_jax

from helpers import golden_values
from helpers.runs import ROOT

pytestmark = pytest.mark.long
COMMANDS = ("train", "eval", "predict", "convert")
PIP = (sys.executable, "-m", "pip", "--quiet")
APART = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def ran(*command, cwd, status=0):
    """(standard output, standard error) of a command that does not see the repository."""
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=APART, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built of a copy: nothing of an earlier build gets into it."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("cffm_jax", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    ran(*PIP, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, source, cwd=folder)
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def clean(wheel, tmp_path_factory):
    """bin of an environment with the wheel, which sees the dependencies that are installed here, but no other
    cffm_jax: a path of a .pth file brings no .pth files of its own, such as that of an editable installation."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, symlinks=True)
    [packages] = folder.glob("lib/python*/site-packages")
    there = dict.fromkeys(
        [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), str(Path(np.__path__[0]).parent)]
    )
    (packages / "dependencies.pth").write_text("\n".join(there))
    python = folder / "bin" / "python"
    ran(*PIP, "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    return python.parent


def test_holds_the_package_and_the_configs_alone(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {str(path.relative_to(ROOT)) for path in (ROOT / "cffm_jax").rglob("*.py")}
    wanted |= {f"cffm_jax/configs/{path.name}" for path in (ROOT / "configs").glob("*.py")}
    wanted |= {"cffm_jax/py.typed", "cffm_jax/evaluation/report/page.html"}
    assert {name for name in names if ".dist-info/" not in name} == wanted


@pytest.mark.parametrize("command", COMMANDS)
def test_scripts_are_the_commands(clean, command, tmp_path):
    script, file = clean / f"cffm-{command}", ROOT / f"{command}.py"
    helps = [ran(script, "--help", cwd=tmp_path)[0], ran(clean / "python", file, "--help", cwd=tmp_path)[0]]
    words = [set(text.split()) - {script.name, file.name} for text in helps]
    assert words[0] == words[1] and "options" in words[0]


def test_refusals_are_one_line(clean, tmp_path):
    out, err = ran(clean / "cffm-train", "--config", "nonsense", cwd=tmp_path, status=2)
    assert not out and err.startswith("error: nonsense: ") and err.count("\n") == 1


def test_configs_are_found_by_name(clean, tmp_path):
    """One that builds on its neighbour; what is wrong then is the data's place alone."""
    argv = ("--config", "b1_vspw_pp", "--data.root", "nowhere", "--init.model", "none")
    out, err = ran(clean / "cffm-train", *argv, cwd=tmp_path, status=2)
    assert not out and err.count("\n") == 1 and ("nowhere" in err or "none" in err) and "config" not in err
    program = "from cffm_jax.settings import load_config; print(load_config('b1_vspw_pp').workdir)"
    assert ran(clean / "python", "-c", program, cwd=tmp_path)[0] == "runs/cffmpp_b1_vspw\n"


def test_version(clean, tmp_path):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    program = "import cffm_jax; print(cffm_jax.__version__, cffm_jax.__file__)"
    there, file = ran(clean / "python", "-c", program, cwd=tmp_path)[0].split()
    assert cffm_jax.__version__ == version == there and Path(file).is_relative_to(clean.parent)


def test_makes_data_and_converts_weights(clean, tmp_path):
    options = ("--videos-train", 1, "--videos-val", 1, "--videos-test", 0, "--frames", 4, "--height", 64, "--width", 96)
    out, _ = ran(clean / "python", "-m", "cffm_jax.data.synthetic", tmp_path / "videos", *options, cwd=tmp_path)
    assert "written" in out and len(list(tmp_path.glob("videos/data/*/mask/*.png"))) == 8
    weights = golden_values.state_dict("mit_b0")
    safetensors.numpy.save_file(weights, tmp_path / "mit.safetensors")
    ran(clean / "cffm-convert", "mit.safetensors", "ours.safetensors", cwd=tmp_path)
    ran(clean / "cffm-convert", "ours.safetensors", "back.safetensors", "--to", "safetensors", cwd=tmp_path)
    back = safetensors.numpy.load_file(tmp_path / "back.safetensors")
    for name, array in back.items():
        np.testing.assert_array_equal(array, weights[name], err_msg=name)
