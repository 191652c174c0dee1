"""Time and memory of ``convert.py`` for a whole model in each format: python benchmarks/convert.py --models cffm_b5

Random weights are written in the released layout, then converted and inspected by the real command in a process of its
own, whose peak memory is the operating system's figure.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CONVERT = Path(__file__).parents[1] / "convert.py"


def write(name: str, path: Path) -> None:
    """Random weights in the released layout, dead ones included. In a process of its own: a child's peak memory is at
    least what its parent had when it started."""
    import cffm_jax
    from cffm_jax.models.variables import flatten, unflatten, variable_shapes
    from cffm_jax.weights.files.write import write_safetensors, write_torch

    model = cffm_jax.create_model(name, 124)
    rng = np.random.default_rng(0)
    shapes = flatten(variable_shapes(model))
    drawn = {path: rng.standard_normal(leaf.shape, np.float32) for path, leaf in shapes.items()}
    weights = cffm_jax.export_state_dict(unflatten(drawn), model, dead=True)
    match path.suffix:
        case ".pth":
            write_torch(path, weights)
        case ".safetensors":
            write_safetensors(path, weights)
        case ".npz":
            np.savez(path, **weights)


def measured(*arguments: object) -> tuple[float, float]:
    """(seconds, peak MB) of a command that must succeed."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, str(CONVERT), *map(str, arguments)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"convert.py {' '.join(map(str, arguments))} failed")
    return time.perf_counter() - began, usage.ru_maxrss / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["cffm_b1", "cffm_b5"])
    options = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    print("| model | file | MB | convert: s | peak MB | inspect: s | peak MB |\n|---|---|---|---|---|---|---|")
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            for file in ("weights.pth", "weights.safetensors", "weights.npz"):
                path = Path(folder) / file
                writer = multiprocessing.get_context("spawn").Process(target=write, args=(name, path))
                writer.start()
                writer.join()
                seconds, peak = measured(path, Path(folder) / "converted.safetensors")
                look, look_peak = measured("--inspect", path)
                size = path.stat().st_size / 1e6
                figures = f"{size:.0f} | {seconds:.1f} | {peak:.0f} | {look:.1f} | {look_peak:.0f}"
                print(f"| {name} | {file} | {figures} |", flush=True)
                (Path(folder) / "converted.safetensors").unlink()
                path.unlink()


if __name__ == "__main__":
    main()
