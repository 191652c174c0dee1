"""Records the start of a run, to start it again: a line of ``run.jsonl`` for each start."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from cffm_jax.config import Config
from cffm_jax.runtime.xla import DETERMINISTIC

NAME = "run.jsonl"
_PACKAGES = (
    "cffm-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "ml_dtypes",
    "opencv-python-headless",
)  # fmt: skip
_VARIABLES = ("XLA_", "JAX_", "CUDA_VISIBLE_DEVICES", "NVIDIA_TF32_OVERRIDE", "TF_CUDNN_DETERMINISTIC")


def write(workdir: Path, config: Config, start: int, devices: Sequence[jax.Device]) -> None:
    """Appends a line. ``start``: steps that were done before; ``devices``: those of the mesh."""
    with (workdir / NAME).open("a") as file:
        file.write(json.dumps(describe(config, start, devices)) + "\n")


def describe(config: Config, start: int, devices: Sequence[jax.Device]) -> dict[str, Any]:
    """Command, config, seeds, versions, git state, devices and variables that change XLA."""
    precision = jax.config.jax_default_matmul_precision  # pyrefly: ignore[missing-attribute]  # added at run time
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "folder": os.getcwd(),
        "start_step": start,
        "config": dataclasses.asdict(config),
        "seeds": {"train.seed": config.train.seed, "prototypes.seed": config.prototypes.seed},
        "deterministic": DETERMINISTIC in os.environ.get("XLA_FLAGS", "").split(),
        "versions": versions(),
        "git": git_state(Path(__file__).parents[2]),
        "host": {"name": platform.node(), "system": platform.platform(), "machine": platform.machine()},
        "devices": {
            "platform": devices[0].platform,
            "kinds": sorted({device.device_kind for device in devices}),
            "count": len(devices),
            "processes": jax.process_count(),
            "runtime": devices[0].client.platform_version.splitlines(),
        },
        "matmul_precision": precision,
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith(_VARIABLES)},
    }


def versions() -> dict[str, str | None]:
    """Versions of Python and the packages that change figures; None where not installed as such."""
    numbers: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            numbers[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            numbers[package] = None
    return numbers


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of a checkout, and if tracked files were changed; None without checkout or git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        # A package that is installed into somebody's repository is not what that repository's
        # commit says.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != folder.resolve():
            return None
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None
