"""``<root>/manifest.sha256``: a dataset's checksums, as `sha256sum` writes and checks them.

A flipped bit in a JPEG decodes without any error: only a checksum finds it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from cffm_jax.errors import InputError
from cffm_jax.runtime.atomic import write_text
from cffm_jax.runtime.progress import Progress

NAME = "manifest.sha256"
_MAKE = "write one with python -m cffm_jax.data.check ROOT --manifest"
_LINE = re.compile(r"(\\?)([0-9a-f]{64}) [ *](.+)")
_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}


def digest(data: bytes) -> bytes:
    """sha256 of a file's bytes."""
    return hashlib.sha256(data).digest()


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Checksums of the files below a folder.

    Attributes:
      root: the folder.
      digests: name relative to it, with "/" -> sha256, 32 bytes.
    """

    root: str
    digests: Mapping[str, bytes]

    def problem(self, path: str | os.PathLike[str], data: bytes) -> str:
        """Says in words how a file's bytes differ from the manifest; "" where they do not."""
        expected = self.digests.get(relative_name(path, self.root))
        if expected is None:
            return f"is not in {NAME}"
        return "" if digest(data) == expected else f"has changed since {NAME} was written (other sha256)"

    def require(self, paths: Iterable[str | os.PathLike[str]]) -> None:
        """InputError for the first file that the manifest does not name."""
        for path in paths:
            if relative_name(path, self.root) not in self.digests:
                raise InputError(path, f"is not in {os.path.join(self.root, NAME)}", _MAKE)


def relative_name(path: str | os.PathLike[str], root: str) -> str:
    """Name of a file relative to the folder, with "/"."""
    # Of files that were listed below the folder the rest is the name: much cheaper than
    # os.path.relpath.
    path, start = os.fspath(path), os.path.join(root, "")
    return (path[len(start) :] if path.startswith(start) else os.path.relpath(path, root)).replace(os.sep, "/")


def read_manifest(root: str) -> Manifest:
    """The manifest of a dataset.

    Raises:
      InputError: there is none, or it cannot be read.
    """
    path = os.path.join(root, NAME)
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", _MAKE) from error
    digests = {}
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if match:
            escaped, checksum, name = match.groups()
            digests[_unescaped(name) if escaped else name] = bytes.fromhex(checksum)
        elif line:
            raise InputError(f"{path}:{number}", "is no line of a sha256 manifest", _MAKE)
    if not digests:
        raise InputError(path, "names no file", _MAKE)
    return Manifest(root, digests)


def _unescaped(name: str) -> str:
    meaning = {coded: plain for plain, coded in _ESCAPES.items()}
    return re.sub(r"\\.", lambda match: meaning.get(match[0], match[0]), name)


def _line(name: str, checksum: bytes) -> str:
    escaped = "".join(_ESCAPES.get(letter, letter) for letter in name)
    mark = "\\" if escaped != name else ""
    return f"{mark}{checksum.hex()}  {escaped}\n"


def list_files(root: str) -> list[str]:
    """Sorted relative names of all files below, but hidden ones, the manifest and .bak files."""
    names = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        kept = (name for name in files if not name.startswith(".") and not name.endswith(".bak"))
        names += [relative_name(os.path.join(folder, name), root) for name in kept]
    return sorted(name for name in names if name != NAME)


def digest_of_file(path: str | os.PathLike[str]) -> bytes:
    """sha256 of a file. Raises: OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def measure(root: str, known: Mapping[str, bytes], threads: int, progress: bool = True) -> dict[str, bytes]:
    """sha256 of all files below the folder; of those that are known already nothing is read.

    Raises:
      InputError: a file cannot be read.
    """

    def of(name: str) -> bytes:
        if name in known:
            return known[name]
        path = os.path.join(root, name)
        try:
            return digest_of_file(path)
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
            raise InputError(path, problem, "check the path and its permissions") from error

    names = list_files(root)
    pool = ThreadPoolExecutor(threads)
    try:
        digests = Progress(pool.map(of, names), "sha256", len(names), unit="file", disable=not progress, leave=False)
        return dict(zip(names, digests, strict=True))
    finally:
        pool.shutdown(cancel_futures=True)


def write_manifest(root: str, digests: Mapping[str, bytes]) -> None:
    """Writes the manifest, sorted by name, whole or not at all. InputError if that cannot be."""
    text = "".join(_line(name, digests[name]) for name in sorted(digests))
    write_text(Path(root, NAME), text, "make the folder writable", errors="surrogateescape")


class Differences(NamedTuple):
    """Relative names of files that are not as the manifest says."""

    changed: tuple[str, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]


def compare(manifest: Manifest, digests: Mapping[str, bytes]) -> Differences:
    """Compares the files that are there with the manifest."""
    known = manifest.digests
    return Differences(
        tuple(sorted(name for name in digests if name in known and known[name] != digests[name])),
        tuple(sorted(known.keys() - digests.keys())),
        tuple(sorted(digests.keys() - known.keys())),
    )
