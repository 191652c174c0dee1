"""Settings of the whole suite, made before JAX is imported and inherited by the commands that tests start."""

import contextlib
import fcntl
import gc
import os
import shutil
import sys
from pathlib import Path

# A hundred processes read the same modules: where Python was told to keep no bytecode, each would compile them anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Eight devices, to test sharding; and machine code that is made quickly, of loops by XLA's older means, which take half
# the time, in one piece, as both cores are busy, and without passes that pay off in long runs alone: nearly all of the
# suite's is compiling.
for flag in (
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
    "--xla_disable_hlo_passes=tree_reduction_rewriter,reshape-mover,while-loop-constant-sinking,constant_folding",
):
    if flag.split("=")[0] not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
# Commands that are aborted tell where they were.
os.environ.setdefault("PYTHONFAULTHANDLER", "1")

import pytest
from PIL import Image

from helpers import shapes

shapes.check()  # Before the package is imported.

from helpers import golden_values, runs


def pytest_collection_finish():
    """What is imported stays: collections of garbage, which tracing sets off again and again, need not look at it."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(scope="session")
def golden():
    """``golden(case)`` -> (stored arrays, manifest entry)."""
    return lambda case: (golden_values.arrays(case), golden_values.manifest()[case])


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Root of a dataset of 4 + 2 videos, made by the real command, once for all processes of the suite."""
    with made_once(tmp_path_factory, "data") as (folder, made):
        root = folder / "videos"
        if made:
            return root
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
    (root / "classes.json").unlink()
    return root


@pytest.fixture(scope="session")
def trained(data, tmp_path_factory):
    """(folder of a finished run, what the command printed), trained by the real command; each process of
    the suite has a copy."""
    with made_once(tmp_path_factory, "trained") as (folder, made):
        said = folder / "said.txt"
        if not made:
            status, out, err = runs.finished("train.py", *runs.train_argv(data, folder / "run"))
            assert status == 0, err
            said.write_text(out)
        workdir = tmp_path_factory.mktemp("runs") / "run"
        shutil.copytree(folder / "run", workdir)
        return workdir, said.read_text().replace(str(folder / "run"), str(workdir))


@contextlib.contextmanager
def made_once(tmp_path_factory, name):
    """(folder of all processes of the suite, whether one of them has made already what it holds)."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"shared_{name}"
    folder.mkdir(exist_ok=True)
    done = folder / "done"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder, done.exists()
        done.touch()


@pytest.fixture
def refused(tmp_path, capfd):
    return runs.Refusal(tmp_path, capfd)
