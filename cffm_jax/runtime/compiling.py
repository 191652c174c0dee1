"""What is compiled: counted, and told while it takes long."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jax
from tqdm import tqdm

from cffm_jax.errors import InputError
from cffm_jax.runtime import cluster
from cffm_jax.runtime.atomic import write_json

_QUIET = 1.0
"""Seconds of compiling that nothing is said about."""
_seen: set[str] = set()
_lock = threading.Lock()


class Compilations:
    """Counts, while entered, what this thread compiles or takes from the compilation cache.

    Attributes:
      count: of both.
      cached: what the cache had.
    """

    _EVENT, _CACHED = "/jax/core/compile/backend_compile_duration", "/jax/compilation_cache/cache_hits"

    def __init__(self) -> None:
        self.count = self.cached = 0
        self._thread = threading.get_ident()

    def __enter__(self) -> Compilations:
        jax.monitoring.register_event_duration_secs_listener(self._notice)
        jax.monitoring.register_event_listener(self._notice_cached)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._notice)
        jax.monitoring.unregister_event_listener(self._notice_cached)

    def _notice(self, event: str, duration_secs: float, **_: object) -> None:
        self.count += event == self._EVENT and threading.get_ident() == self._thread

    def _notice_cached(self, event: str, **_: object) -> None:
        self.cached += event == self._CACHED and threading.get_ident() == self._thread


@contextlib.contextmanager
def compiling(what: str, *kind: object) -> Iterator[None]:
    """Says that a program is being compiled, on standard error, once the block has taken a second,
    and how long it took last time; does so the first time in a process, and in its first process.

    How long it took is kept beside the compiled programs (``jax_compilation_cache_dir``), unless it
    was they that were used; where they are not kept, or cannot be, it is not known.

    Args:
      what: the program in words.
      kind: which of them: the model, sizes; the devices' kind is added.
    """
    program = ", ".join(map(str, (what, *kind, jax.local_devices()[0].device_kind)))
    with _lock:
        first = program not in _seen
        _seen.add(program)
    if not first or not cluster.first():
        yield
        return
    timer = threading.Timer(_QUIET, _tell, (what, _kept().get(program)))
    timer.daemon = True
    timer.start()
    began = time.perf_counter()
    try:
        with Compilations() as compilations:
            yield
    finally:
        timer.cancel()
    if compilations.count and not compilations.cached:
        _keep(program, time.perf_counter() - began)


def _tell(what: str, seconds: float | None) -> None:
    if sys.stderr is not None:
        known = "the first time takes a while" if seconds is None else f"at most {seconds:.0f} s, as last time"
        tqdm.write(f"compiling {what} ({known})", file=sys.stderr)


def _folder() -> str | None:
    return jax.config.jax_compilation_cache_dir  # pyrefly: ignore[missing-attribute]  # added at run time


def _file() -> Path | None:
    folder = _folder()
    return Path(folder) / "cffm_jax_seconds.json" if folder and "://" not in folder else None


def _kept() -> dict[str, float]:
    """Seconds by program; none where the file is not there, or is not ours."""
    path = _file()
    with contextlib.suppress(OSError, ValueError):
        kept = json.loads(path.read_text()) if path else {}
        return {name: value for name, value in dict(kept).items() if isinstance(value, float)}
    return {}


def _keep(program: str, seconds: float) -> None:
    path = _file()
    if path and seconds > _QUIET:
        with contextlib.suppress(InputError):  # A cache that is only read: then it is not known.
            write_json(path, {**_kept(), program: round(seconds, 1)})
