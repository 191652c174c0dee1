"""Checkpoints from before there were checksums: whole are those whose parts can be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tensorstore

_TREES, _CONFIG = ("variables", "optimizer"), "config"
_DRIVERS = {".zarray": "zarr", "zarr.json": "zarr3"}


def fault_of(folder: Path) -> str:
    """Why a step without checksums is no whole one; "" if all its parts can be read.

    They are read to the end, as nothing else tells: one array after the other and by Orbax's own
    store, since Orbax reads all at once and prints what still fails after the first fault.
    """
    parts = (*_TREES, _CONFIG)
    if missing := [name for name in parts if not (folder / name).is_dir()]:
        return f"it has neither checksums nor {', '.join(missing)}"
    try:
        json.loads((folder / _CONFIG / "metadata").read_text())
        for name in _TREES:
            json.loads((folder / name / "_METADATA").read_text())
            _read_arrays(folder / name)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"it has no checksums and cannot be read ({reason_of(error)[:200]})"
    return ""


def reason_of(error: Exception) -> str:
    """The first line of what an error says; without any, its kind."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _read_arrays(folder: Path) -> None:
    """ValueError: one cannot be read, or there are none."""
    files: dict[str, Any] = {"driver": "file", "path": f"{folder}/"}
    place: dict[str, Any] = {"driver": "ocdbt", "base": files} if (folder / "manifest.ocdbt").exists() else files
    keys = [key.decode() for key in tensorstore.KvStore.open(place).result().list().result()]
    found = 0
    for key in keys:
        for end, driver in _DRIVERS.items():
            if key.endswith(f"/{end}"):
                below = {**place, "path": place.get("path", "") + key.removesuffix(end)}
                tensorstore.open({"driver": driver, "kvstore": below}).result().read().result()
                found += 1
    if not found:
        raise ValueError(f"{folder.name} holds no arrays")
