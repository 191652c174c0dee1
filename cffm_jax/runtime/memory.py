"""A machine's memory; and settings of a command's, which have no effect but on Linux with glibc."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from pathlib import Path

_ARENA_MAX = -8
"""glibc's M_ARENA_MAX."""
_TUNABLES = "GLIBC_TUNABLES"
_HUGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where a container finds its limit."""


def machine_bytes() -> int | None:
    """Memory of the machine, or of the container, without swap; None where the system does not
    tell."""
    sizes = []
    with contextlib.suppress(AttributeError, ValueError, OSError):  # Of Windows, and others.
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # It is not there, or says "max".
            sizes.append(int(path.read_text()))
    return min(sizes, default=None)


def use_huge_pages() -> None:
    """Starts the command anew with huge pages for large arrays, where they can be asked for.

    XLA gets its temporary memory anew in each call, gigabytes in pages of 4 KB: on CPUs a quarter
    of a training step goes there. glibc asks for large ones only if told so before the process
    starts. Whoever sets GLIBC_TUNABLES, to nothing too, is not interfered with.
    """
    if _TUNABLES in os.environ or not _to_be_had():
        return
    os.environ[_TUNABLES] = "glibc.malloc.hugetlb=1"
    os.execv(sys.executable, sys.orig_argv)


def _to_be_had() -> bool:
    if sys.platform != "linux" or not sys.executable:
        return False
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        numbers = tuple(map(int, version.split(".")[:2]))
        # "always" needs no asking, "never" gives none.
        return name == "glibc" and numbers >= (2, 35) and "[madvise]" in _HUGE.read_text()
    except (OSError, ValueError):  # Another C library, or a system without the file.
        return False


def share_freed_memory() -> None:
    """Lets threads share what they free: glibc keeps it apart by thread, so that a stream would
    seem to grow by a few buffers for every computing thread. Call before the first thread."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # Others have none.
        if mallopt is not None:
            mallopt(_ARENA_MAX, 1)
