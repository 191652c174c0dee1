"""Settings of the whole suite, made before JAX is imported and inherited by the commands that tests start."""

import os
import shutil
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Eight devices, to test sharding; and machine code that is made quickly: nearly all of the suite's time is compiling.
for flag in ("--xla_force_host_platform_device_count=8", "--xla_backend_optimization_level=0"):
    if flag.split("=")[0] not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

import golden_values
import pytest
import runs
from PIL import Image


@pytest.fixture(scope="session")
def golden():
    """``golden(case)`` -> (stored arrays, manifest entry)."""
    return lambda case: (golden_values.arrays(case), golden_values.manifest()[case])


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Root of a dataset of 4 + 2 videos, made by the real command."""
    root = tmp_path_factory.mktemp("data") / "videos"
    options = {
        "videos-train": 4,
        "videos-val": 2,
        "videos-test": 0,
        "frames": runs.FRAMES,
        "height": runs.SIZE[0],
        "width": runs.SIZE[1],
    }
    argv = [str(root), *(part for name, value in options.items() for part in (f"--{name}", str(value)))]
    status, out, err = runs.finished("-m", "cffm_jax.data.synthetic", *argv)
    assert status == 0, err
    assert "written" in out and len(list(root.glob("data/*/origin/*.jpg"))) == 6 * runs.FRAMES
    return root


@pytest.fixture(scope="session")
def plain(data, tmp_path_factory):
    """The dataset with a single class in its masks: fit for any number of classes."""
    root = Path(shutil.copytree(data, tmp_path_factory.mktemp("plain") / "videos"))
    for mask in root.glob("data/*/mask/*.png"):
        Image.new("L", runs.SIZE[::-1], 1).save(mask)
    return root


@pytest.fixture(scope="session")
def trained(data, tmp_path_factory):
    """(folder of a finished run with a profile, what the command printed), trained by the real command."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    status, out, err = runs.finished("train.py", *runs.train_argv(data, workdir, "--profile"))
    assert status == 0, err
    return workdir, out


@pytest.fixture
def refused(tmp_path, capfd):
    return runs.Refusal(tmp_path, capfd)
