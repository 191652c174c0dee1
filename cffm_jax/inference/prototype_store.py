"""Prototypes of whole videos in a folder, to be used again."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from pathlib import Path

import jax
import numpy as np

from cffm_jax.errors import InputError


class PrototypeStore:
    """Prototypes of a split's videos in one file (SQLite), where each video is written whole. A row
    is found by the video and a digest of all that its prototypes depend on, so that those of other
    weights or settings are never taken for them. Of several processes each writes a file of its own
    (``val.sqlite``, ``val.1.sqlite``, ...), as SQLite and network file systems do not go together.
    All are read, the others' as at the start."""

    def __init__(self, path: Path):
        process = jax.process_index()
        self.path = path.with_suffix(f".{process}{path.suffix}") if process else path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(self.path, timeout=60, check_same_thread=False)
            with self._file:
                self._file.execute(
                    "CREATE TABLE IF NOT EXISTS prototypes"
                    " (video TEXT, key TEXT, count INTEGER, width INTEGER, data BLOB, PRIMARY KEY (video, key))"
                )
        except (OSError, sqlite3.Error) as error:
            remedy = "delete it, or name another folder with --prototypes.folder"
            raise InputError(self.path, f"cannot be used to keep prototypes ({error})", remedy) from error
        files = [path, *path.parent.glob(f"{path.stem}.*{path.suffix}")]
        self._others = [_read_only(other) for other in files if other != self.path and other.exists()]
        self._lock = threading.Lock()  # Each device has a thread that asks.

    def get(self, video: str, key: str) -> np.ndarray | None:
        """f32[P, C], or None."""
        query = "SELECT count, width, data FROM prototypes WHERE video = ? AND key = ?"
        with self._lock:
            rows = (file.execute(query, (video, key)).fetchone() for file in (self._file, *self._others))
            row = next(filter(None, rows), None)
        return None if row is None else np.frombuffer(row[2], np.float32).reshape(row[0], row[1])

    def put(self, video: str, key: str, prototypes: np.ndarray) -> None:
        row = (video, key, *prototypes.shape, np.ascontiguousarray(prototypes, np.float32).tobytes())
        with self._lock, self._file:
            self._file.execute("INSERT OR REPLACE INTO prototypes VALUES (?, ?, ?, ?, ?)", row)

    def close(self) -> None:
        for file in (self._file, *self._others):
            file.close()


def _read_only(path: Path) -> sqlite3.Connection:
    """Copies the database of another process, so that its file is not kept open."""
    copy = sqlite3.connect(":memory:", check_same_thread=False)
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=60)) as file:
            file.backup(copy)
        copy.execute("SELECT video, key, count, width, data FROM prototypes LIMIT 1")
    except sqlite3.Error as error:
        remedy = "delete it, or name another folder with --prototypes.folder"
        raise InputError(path, f"cannot be used to keep prototypes ({error})", remedy) from error
    return copy
