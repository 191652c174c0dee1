"""Locks on what a process writes: a file that says who writes there, and since when.

Kernels lock too, but not on every network file system between hosts. A process that was killed
leaves its file behind: on the same host it is seen to be gone, on another it gives no sign any
more.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import secrets
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from cffm_jax.errors import InputError

_SIGN = 20.0
"""Seconds between two signs of life: the file is touched."""
_SILENT = 300.0
"""Seconds without one after which a process that cannot be looked for is taken to be gone; network
file systems may show a sign a minute late."""
_LOOK = 0.05
"""Seconds between two looks of one that waits."""
_GUARDED = 30.0
"""Seconds after which one that takes a left file away, which is done at once, counts as gone."""


class InUse(InputError):
    """Another process holds the lock."""


class Lock:
    """A lock on a place, held by one process: a context manager.

    Args:
      file: the lock's own file; its folder must be there to acquire it.
      place: what it is on, for messages.
      patience: seconds to wait for another process.
    """

    def __init__(self, file: Path, place: object, patience: float = 0.0):
        self._file, self._place, self._patience = file, place, patience
        self._mine, self._over = b"", threading.Event()
        self._signs: threading.Thread | None = None

    @property
    def held(self) -> bool:
        return bool(self._mine)

    def acquire(self) -> None:
        """
        Raises:
          InUse: another process holds it.
          OSError: the file cannot be written.
        """
        until = time.monotonic() + self._patience
        record = json.dumps({**_this_process(), "token": secrets.token_hex(8)}).encode()
        while not self._created(record):
            holder = self._holder()
            if holder and time.monotonic() >= until:
                raise holder
            time.sleep(_LOOK if holder else 0)
        self._mine, self._over = record, threading.Event()
        self._signs = threading.Thread(target=self._give_signs, args=(self._over,), name="lock", daemon=True)
        self._signs.start()

    def release(self) -> None:
        """Lets go of it, if it is held."""
        if self._signs is not None:
            self._over.set()
            self._signs.join()
            self._signs = None
        mine, self._mine = self._mine, b""
        if mine and self._read()[0] == mine:
            with contextlib.suppress(OSError):
                self._file.unlink(missing_ok=True)

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _created(self, record: bytes) -> bool:
        """Makes the file, if there is none: with what it holds at once where the file system can,
        as a process that is killed between would leave one that does not tell whose it was."""
        with contextlib.suppress(OSError, AttributeError):  # The other way says what is wrong.
            nameless = os.open(self._file.parent, os.O_TMPFILE | os.O_WRONLY, 0o644)
            try:
                os.write(nameless, record)
                # With a folder given the link is followed, which it is not otherwise.
                os.link(f"/proc/self/fd/{nameless}", self._file, src_dir_fd=nameless)
                return True
            except FileExistsError:
                return False
            finally:
                os.close(nameless)
        try:
            file = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return False
        try:
            os.write(file, record)
        except OSError:
            self._file.unlink()
            raise
        finally:
            os.close(file)
        return True

    def _read(self) -> tuple[bytes, float]:
        """What the file holds and when its process last gave a sign; nothing if it is not there."""
        try:
            with self._file.open("rb") as file:
                return file.read(4096), os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return b"", 0.0

    def _holder(self) -> InUse | None:
        """What to say of the process that holds it; None if it is free, or was left behind and is
        free now."""
        found, sign = self._read()
        if not sign:
            return None
        silent = max(0.0, self._now() - sign)
        try:
            holder = json.loads(found)
            who = f"process {holder['process']} on {holder['host']}"
            looked_for = all(holder[name] == value for name, value in _this_host().items())
            gone = looked_for and _started(holder["process"]) != holder["started"]
            since = f" since {holder['since']}"
        except (ValueError, KeyError, TypeError, OverflowError):  # Not yet, or never, written to its end.
            who, looked_for, gone, since = "a process that does not tell its name", False, False, ""
        if not gone and (looked_for or silent < _SILENT):
            remedy = "wait until it has ended, or name another place"
            if not looked_for:
                remedy += f" (if it is gone: it counts as that after {_SILENT / 60:g} minutes, or remove {self._file})"
            problem = f"is in use by {who}{since}, of which the last sign came {silent:.0f} s ago"
            return InUse(self._place, problem, remedy)
        if self._take_away(found) and not looked_for:
            said = f"{self._place}: was in use by {who}, which gave no sign for {silent / 60:.0f} minutes: taken over"
            print(said, file=sys.stderr)
        return None

    def _take_away(self, found: bytes) -> bool:
        """Removes the file of a process that is gone, and says whether it did: one process at a
        time, so that none removes what another put there since."""
        guard = self._file.with_name(f"{self._file.name}.guard")
        try:
            os.close(os.open(guard, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):
                if self._now() - guard.stat().st_mtime > _GUARDED:  # Its process was killed meanwhile.
                    guard.unlink()
            time.sleep(_LOOK)
            return False
        try:
            is_same = self._read()[0] == found
            if is_same:
                self._file.unlink(missing_ok=True)
        finally:
            guard.unlink(missing_ok=True)
        return is_same

    def _now(self) -> float:
        """The time by the clock of the folder's file system, which may be another host's."""
        with tempfile.TemporaryFile(dir=self._file.parent) as file:
            file.write(b"\0")
            file.flush()
            return os.fstat(file.fileno()).st_mtime

    def _give_signs(self, over: threading.Event) -> None:
        while not over.wait(_SIGN):
            with contextlib.suppress(OSError):  # A disk that fails is told by what is written there.
                if self._read()[0] == self._mine:
                    os.utime(self._file)


def _this_host() -> dict[str, str]:
    """What tells this host, since it was started, and the numbers of its processes from others."""
    with contextlib.suppress(OSError):  # Others than Linux have none.
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return {"host": socket.gethostname(), "space": f"{boot} {os.readlink('/proc/self/ns/pid')}"}
    return {"host": socket.gethostname(), "space": ""}


def _this_process() -> dict[str, Any]:
    since = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    return {**_this_host(), "process": os.getpid(), "started": _started(os.getpid()), "since": since}


def _started(process: int) -> str:
    """When a process of this host was started, in units of its own; "" if there is none."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:  # Another user's.
        pass
    try:
        # The name in brackets may hold anything. After it: the state, and as the twentieth the
        # start.
        fields = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except FileNotFoundError:
        return "" if Path("/proc/self/stat").exists() else "unknown"
    return "" if fields[0] in "ZX" else fields[19]
