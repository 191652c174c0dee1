"""Zip archives within limits: nothing is extracted, and no small file unfolds into a large one."""

from __future__ import annotations

import re
import zipfile
from typing import BinaryIO

from cffm_jax.weights.files.stored_array import FLOOR_BYTES, MAX_BYTES, CutOff, Longer

MAX_MEMBERS = 100_000
"""Torch writes one a storage: 10,000 tensors with their optimizer's state make 40,000."""

MAX_DIRECTORY = 16 << 20
"""Bytes of the list of members, which is read whole: 160 a member."""

MAX_RATIO = 200
"""Bytes of content for a byte of file: trained weights deflate to half, zeros to a thousandth."""

_UNSAFE = re.compile(r"(^|/)\.\.?(/|$)|^/|^[A-Za-z]:|[\\\x00-\x1f\x7f]|//")
_ENCRYPTED = 0x1 | 0x20 | 0x40
_END, _COMMENT, _END_MARK = 22, 0xFFFF, b"PK\x05\x06"
"""Of the record at a zip's end: its bytes, those of a comment at most, and how it begins."""
_LOCATOR = 20
"""Bytes of the record before it, in a zip of more than 4 GiB."""
_STRIDE = 16 << 20
"""Bytes looked through at once."""
_SEARCHED = 256 << 20
"""Bytes looked through: a file may be on a network."""
_HEADER = 30
"""Bytes of a member's own header before its name."""


class _Guarded:
    """A file that refuses to be read by more than ``limit`` bytes at once while it has one."""

    def __init__(self, file: BinaryIO, limit: int):
        self._file, self.limit = file, limit

    def read(self, count: int = -1) -> bytes:
        if not self.limit:
            return self._file.read(count)
        data = self._file.read(self.limit + 1 if count < 0 else min(count, self.limit + 1))
        if len(data) > self.limit:
            raise zipfile.BadZipFile(f"its list of members is larger than {self.limit} bytes")
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def __getattr__(self, name: str):
        return getattr(self._file, name)


def open_zip(file: BinaryIO, size: int) -> zipfile.ZipFile:
    """The archive in an open file of ``size`` bytes, once its list of members has been checked.

    Raises:
      CutOff: its end is not there.
      Longer: more than a comment is behind its end.
      BadZipFile: it is damaged, beyond a limit above, encrypted, has something before its start,
        names that lead elsewhere, members of one name or members that overlap.
    """
    _require_end(file, size)
    guarded = _Guarded(file, MAX_DIRECTORY)
    archive = zipfile.ZipFile(guarded)
    guarded.limit = 0
    members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        raise zipfile.BadZipFile(f"it has {len(members)} members, more than {MAX_MEMBERS}")
    seen = set()
    for member in members:
        name = member.orig_filename
        if _UNSAFE.search(name.removesuffix("/")):
            raise zipfile.BadZipFile(f"a member's name leads elsewhere: {name}")
        if name in seen:
            raise zipfile.BadZipFile(f"two members have the name {name}")
        seen.add(name)
        if member.flag_bits & _ENCRYPTED:
            raise zipfile.BadZipFile("it is encrypted")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise zipfile.BadZipFile(f"{name} is compressed in a way that torch and numpy do not use")
        if member.compress_type == zipfile.ZIP_STORED and member.file_size != member.compress_size:
            raise zipfile.BadZipFile(f"{name} has two sizes")
    _check_sizes(members, size)
    _check_overlaps(members, archive.start_dir)
    return archive


def _require_end(file: BinaryIO, size: int) -> None:
    """CutOff or Longer unless the record at a zip's end is there, with the comment that it
    announces."""
    start = max(0, size - _END - _COMMENT)
    file.seek(start)
    tail = file.read(_END + _COMMENT)
    place = tail.rfind(_END_MARK)
    if place < 0:
        whole = _earlier_end(file, start)
        if whole:
            raise Longer(size, whole)
        raise CutOff(size, "and the list of its members, which stands at its end, is not")
    whole = start + place + _END + int.from_bytes(tail[place + _END - 2 : place + _END], "little")
    if size < whole:
        raise CutOff(size, f"{whole:,} should be")


def _earlier_end(file: BinaryIO, before: int) -> int:
    """Where a zip ends whose record of the end begins before this place, at most ``_SEARCHED``
    bytes; 0 for none.

    The bytes of one may be data: the list of members must end where it begins, or where the records
    of a zip of more than 4 GiB do that stand before it.
    """
    first = max(0, before - _SEARCHED)
    while before > first:
        start = max(first, before - _STRIDE)
        file.seek(start)
        data = file.read(before - start + _END)
        place = data.rfind(_END_MARK, 0, before - start + len(_END_MARK) - 1)
        while place >= 0:
            record = data[place : place + _END]
            file.seek(max(0, start + place - _LOCATOR))
            large = file.read(4) == b"PK\x06\x07"
            listed = int.from_bytes(record[12:16], "little") + int.from_bytes(record[16:20], "little")
            if len(record) == _END and (large or listed == start + place):
                return start + place + _END + int.from_bytes(record[20:22], "little")
            place = data.rfind(_END_MARK, 0, place)
        before = start
    return 0


def _check_sizes(members: list[zipfile.ZipInfo], size: int) -> None:
    declared = sum(member.file_size for member in members)
    if declared > min(MAX_BYTES, max(FLOOR_BYTES, MAX_RATIO * size)):
        raise zipfile.BadZipFile(f"it would unfold from {size} to {declared} bytes")


def _check_overlaps(members: list[zipfile.ZipInfo], end: int) -> None:
    """Nothing is before the first member; each ends before the next one starts, and the last before
    the list of members."""
    ordered = sorted(members, key=lambda member: member.header_offset)
    for member, following in zip(ordered, [*(m.header_offset for m in ordered[1:]), end]):
        if member.header_offset < 0 or member.header_offset + _HEADER + member.compress_size > following:
            raise zipfile.BadZipFile(f"{member.orig_filename} overlaps what follows it")
    before = ordered[0].header_offset if ordered else 0
    if before > 0:  # As of two files one after the other; zipfile finds the last one.
        raise zipfile.BadZipFile(f"{before:,} bytes stand before its start")
