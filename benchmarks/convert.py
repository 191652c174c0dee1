"""Time and memory of ``convert.py`` for a whole model in each format: python benchmarks/convert.py --models cffm_b5

Random weights are written in the released layout, then converted and inspected by the real command in a process of its
own, whose peak memory is the operating system's figure.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import cffm_jax
from cffm_jax.models.variables import flatten, unflatten, variable_shapes
from cffm_jax.weights.files.write import write_safetensors, write_torch
from train import Failed, finished

MINUTES = 10.0
"""A command that takes longer is given up."""


def write(name: str, path: Path) -> None:
    """Random weights in the released layout, dead ones included."""
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
    words = ["convert.py", *map(str, arguments)]
    began = time.perf_counter()
    try:
        _, peak = finished([sys.executable, *words], MINUTES)
    except Failed as failed:
        raise SystemExit(f"{' '.join(words)}: {failed}") from failed
    return time.perf_counter() - began, peak / 1e6


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
                write(name, path)
                seconds, peak = measured(path, Path(folder) / "converted.safetensors")
                look, look_peak = measured("--inspect", path)
                size = path.stat().st_size / 1e6
                figures = f"{size:.0f} | {seconds:.1f} | {peak:.0f} | {look:.1f} | {look_peak:.0f}"
                print(f"| {name} | {file} | {figures} |", flush=True)
                (Path(folder) / "converted.safetensors").unlink()
                path.unlink()


if __name__ == "__main__":
    main()
