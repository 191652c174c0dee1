"""Files and folders whole or not at all: written beside under a hidden name, then renamed.

What a killed process left under that name is replaced by the next that writes there; one that is at
work is not interfered with: a lock beside tells it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cffm_jax.errors import InputError
from cffm_jax.runtime.lock import Lock

_ROOM = "free some space, or name another place"
_PATIENCE = 10.0
"""Seconds to wait for another process that writes the same file: most are short."""


def unwritable(path: str | Path, error: OSError | str, remedy: str = _ROOM) -> InputError:
    """The error for what cannot be written, by an OSError or words."""
    reason = error if isinstance(error, str) else error.strerror or str(error)
    return InputError(path, f"cannot be written ({reason})", remedy)


def require_writable(path: Path) -> None:
    """InputError, before the work, for a file that cannot be written after it."""
    there = next(parent for parent in path.absolute().parents if parent.exists())
    if path.is_dir() or not there.is_dir() or not os.access(there, os.W_OK):
        raise InputError(path, "cannot be written", "name a file in a folder that can be written")


def require_new_folder(folder: str | Path, of_what: str) -> None:
    """InputError, before the work, where something is already: anything but an empty folder."""
    if os.path.lexists(folder) and (not os.path.isdir(folder) or os.listdir(folder)):
        raise InputError(folder, "exists and is not empty", f"name a new folder for {of_what}")


def lock_on(path: Path, patience: float = 0.0) -> Lock:
    """The lock of those who write a file or folder: beside it, under a hidden name."""
    return Lock(_beside(path, "lock"), path, patience)


def _beside(path: Path, suffix: str = "partial") -> Path:
    name = path.name
    if len(name) > 48:  # Maybe as long as the file system allows. Two names that begin alike are written side by side.
        name = f"{name[:40]}-{zlib.crc32(os.fsencode(name)):08x}"
    return path.parent / f".{name}.{suffix}"


def _require_possible(path: Path) -> None:
    """OSError for a name that no file can have, now and not after the work."""
    with contextlib.suppress(FileNotFoundError):
        os.lstat(path)


@contextlib.contextmanager
def whole_file(path: str | Path, remedy: str = _ROOM) -> Iterator[Path]:
    """The name to write to: it becomes ``path`` when the block ends, and goes if the block fails.

    Raises:
      InputError: the folder cannot be written, the disk is full, with ``remedy``, or another
        process is writing the file.
    """
    path = Path(path)
    partial = _beside(path)
    try:
        with lock_on(path, _PATIENCE):
            try:
                partial.unlink(missing_ok=True)
                _require_possible(path)
                yield partial
                with partial.open("r+b") as file:
                    os.fsync(file.fileno())
                os.replace(partial, path)
            finally:
                with contextlib.suppress(OSError):  # Nothing is there if it is a file now.
                    partial.unlink()
    except OSError as error:
        raise unwritable(path, error, remedy) from error


def write_text(path: str | Path, text: str, remedy: str = _ROOM, errors: str = "strict") -> None:
    """Writes UTF-8 with the text's line ends. InputError with ``remedy`` where that cannot be."""
    with whole_file(path, remedy) as partial:
        partial.write_text(text, encoding="utf-8", errors=errors, newline="\n")


def write_json(path: str | Path, value: Any, remedy: str = _ROOM) -> None:
    """Writes JSON as ``write_text`` does text; the folder is made if it is not there."""
    with contextlib.suppress(OSError):  # Writing says it.
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, remedy) as partial:
        partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


class WholeFolder:
    """A folder in the making: a context manager; at its end it is there whole, not after an error.

    Attributes:
      folder: its place.
      partial: where to write meanwhile; beside it, with a name that is hidden.
    """

    def __init__(self, folder: str | Path, *, overwrite: bool = False, remedy: str = _ROOM):
        """
        Args:
          folder: its place, or a link to it; parents are made, and go again after an error.
          overwrite: replace what is there once the new is whole; else only an empty folder may be.
          remedy: what to do if it cannot be written.
        """
        self.folder = Path(os.path.abspath(folder))
        if os.path.islink(self.folder):  # The folder that it names is replaced, and not the link.
            self.folder = Path(os.path.realpath(self.folder))
        self.partial = _beside(self.folder)
        self._overwrite, self._remedy = overwrite, remedy
        self._lock = lock_on(self.folder)
        self._made: list[Path] = []

    def __enter__(self) -> WholeFolder:
        try:
            missing = [parent for parent in self.partial.parents if not parent.exists()]
            for parent in reversed(missing):
                parent.mkdir(exist_ok=True)
                self._made.append(parent)
            self._lock.acquire()
            if self.partial.exists():  # Of a run that was killed.
                shutil.rmtree(self.partial)
            _require_possible(self.folder)
            if not self._overwrite:  # Another process may have made it since that was asked for.
                require_new_folder(self.folder, "what is made now")
            if os.path.ismount(self.folder):
                raise unwritable(self.folder, "a disk is mounted there", "name a new folder in it")
            self.partial.mkdir()
        except OSError as error:
            self.remove()
            raise unwritable(self.folder, error, self._remedy) from error
        except InputError:
            self.remove()
            raise
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            if kind is None:
                if self._overwrite:
                    swap(self.partial, self.folder)
                else:
                    if self.folder.exists():
                        self.folder.rmdir()
                    os.replace(self.partial, self.folder)
                self._made.clear()
        except OSError as error:
            raise unwritable(self.folder, error, self._remedy) from error
        finally:
            self.remove()

    def remove(self) -> None:
        """Takes away what was written and made so far."""
        if self._lock.held:
            shutil.rmtree(self.partial, ignore_errors=True)
        self._lock.release()
        for parent in reversed(self._made):
            with contextlib.suppress(OSError):
                parent.rmdir()

    @contextlib.contextmanager
    def writing(self) -> Iterator[Path]:
        """``partial``, with InputError for OSError: around all writes into it, and only those."""
        try:
            yield self.partial
        except OSError as error:
            raise unwritable(self.folder, error, self._remedy) from error


def swap(made: Path, root: Path) -> None:
    """Puts a finished folder in the place of the root, which comes back when that fails."""
    if not root.exists():
        os.replace(made, root)
        return
    old = made.with_name(made.name + ".old")
    shutil.rmtree(old, ignore_errors=True)  # Of one that was killed: the root is whole.
    os.replace(root, old)
    try:
        os.replace(made, root)
    except BaseException:
        os.replace(old, root)
        raise
    shutil.rmtree(old)
