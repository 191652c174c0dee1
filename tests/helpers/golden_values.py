"""Golden values: outputs of the released implementation for weights and inputs that are drawn, not stored.

The draws must give the numbers that the outputs were made with, bit for bit: see tests/golden/README.md.
"""

from __future__ import annotations

import functools
import json
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parents[1] / "golden"
COMPARED = FOLDER / "compared"
"""Those of the systems that the papers compare with."""


@functools.cache
def manifest() -> dict:
    """The cases by name: backbone, shapes, state dict keys, figures."""
    return {case: entry for folder in (FOLDER, COMPARED) for case, entry in _cases(folder).items()}


@functools.cache
def _cases(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def arrays(case: str) -> dict[str, np.ndarray]:
    """The stored outputs of a case."""
    folder = COMPARED if case in _cases(COMPARED) else FOLDER
    with np.load(folder / f"{case}.npz") as file:
        return dict(file)


def _normal(name: str, shape: Iterable[int], seed: int) -> np.ndarray:
    bits = np.random.PCG64([zlib.crc32(name.encode()), seed])
    return np.random.Generator(bits).standard_normal(tuple(shape)).astype(np.float32)


def draw(key: str, shape: Iterable[int], seed: int = 0) -> np.ndarray:
    """Weight of a state dict key: its spread depends on what the key says it is."""
    shape = tuple(shape)
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    normal = _normal(key, shape, seed)
    leaf = key.rpartition(".")[2]
    if key.endswith("running_var"):
        drawn = 0.5 + 0.5 * np.abs(normal)
    elif key.endswith("running_mean"):
        drawn = 0.1 * normal
    elif leaf == "weight" and len(shape) == 1:  # The scale of a norm.
        drawn = 1.0 + 0.1 * normal
    elif leaf == "bias":
        drawn = 0.05 * normal
    elif "relative_position_bias_table" in key:
        drawn = 0.3 * normal
    elif "pool_layers" in key:
        drawn = (1.0 + 0.5 * normal) / shape[-1]
    else:
        drawn = normal / np.sqrt(max(int(np.prod(shape[1:])), 1))
    return drawn.astype(np.float32)


def draw_input(name: str, shape: Iterable[int], seed: int = 0) -> np.ndarray:
    """Standard normal input, e.g. ``frames`` (NCHW) or ``prototypes``."""
    return _normal(f"input.{name}", shape, seed)


def state_dict(case: str, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """The drawn weights of a case, all of them or those of the given names."""
    entry = manifest()[case]
    shapes = entry["state_dict"]
    return {key: draw(key, shapes[key], entry["seed"]) for key in (shapes if names is None else names)}


def drawn_maps(entry):
    """The four maps of an encoder, NHWC; blank ones that the case does not read."""
    maps = []
    for name in ("c1", "c2", "c3", "c4"):
        shape = entry.get(name, (entry["c4"][0], 1, 1, 1))
        maps.append(draw_input(name, shape, entry["seed"]).transpose(0, 2, 3, 1))
    return maps


def assert_compared(case, found):
    """Compares arrays, NHWC, with every stored part of them, at 5e-6 of the largest value; logits of a whole OCRNet
    at 5e-5, as its spatial softmax is nearly one-hot for drawn weights."""
    tolerance = 5e-5 if case.startswith("ocrnet_r101") else 5e-6
    entry, stored = manifest()[case], arrays(case)
    for name, array in found.items():
        array = np.asarray(array).transpose(0, 3, 1, 2)
        assert list(array.shape) == entry["shapes"][name]
        step = entry["class_step"] if "logits" in name else entry["channel_step"]
        parts = {name: array[:, ::step], f"{name}_mean": array.mean((2, 3))}
        kept = [key for key in parts if key in stored]
        assert kept, name
        for key in kept:
            far = np.abs(parts[key] - stored[key]).max() / entry["largest"][name]
            assert far < tolerance, (key, far)
