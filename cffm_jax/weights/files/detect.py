"""Which format an open file has, by its first bytes; usual files that are no weights are named."""

from __future__ import annotations

from typing import BinaryIO

from cffm_jax.errors import InputError
from cffm_jax.weights.files.stored_array import REMEDY, CutOff

HEAD = 512
MAX_HEADER = 16 << 20
"""Bytes of a safetensors header; 10,000 tensors take 1 MB."""
_TELLING = 16
"""Bytes by which every format can be told."""
_TORCH_MAGIC = b"l\xfc\x9cF\xf9 j\xa8P\x19"
"""The bytes of torch's magic number in any protocol of pickle."""

_STARTS = (b"PK\x03\x04", b"\x80\x02\x8a\n" + _TORCH_MAGIC)

_UNPACK = "unpack it and give the file of weights in it"
_FETCH = "fetch the file itself"
_OTHERS = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the file it stands for", "fetch it with git lfs pull"),
    (b"sys_info\0", "is of torch < 0.1.10 (tar), which is not read here", "save it again with a later torch"),
    (b"\x1f\x8b", "is compressed by gzip", _UNPACK),
    (b"BZh", "is compressed by bzip2", _UNPACK),
    (b"\xfd7zXZ\0", "is compressed by xz", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "is compressed by zstd", _UNPACK),
    (b"7z\xbc\xaf'\x1c", "is a 7z archive", _UNPACK),
    (b"Rar!\x1a\x07", "is a rar archive", _UNPACK),
    (b"\x93NUMPY", "is a single array of numpy", REMEDY),
    (b"\x89HDF\r\n\x1a\n", "is an HDF5 file", REMEDY),
    (b"\x80", "is a pickle, but not torch's", "save it again with torch.save"),
)
_PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml")


def recognise(file: BinaryIO, size: int, where: object) -> str:
    """ "zip", "torch (legacy)", "safetensors" or "json" of an open file of ``size`` bytes, which is
    left at its start.

    Raises:
      InputError: it is none of them; what it is instead is said if it is known.
      CutOff: it ends before its format's description does.
    """
    head = file.read(HEAD)
    file.seek(0)
    if not head:
        raise InputError(where, "is empty", _FETCH)
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return "zip"
    if _TORCH_MAGIC in head[:64] and head[:1] == b"\x80":
        return "torch (legacy)"
    header = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and header <= size - 8:
        return "safetensors"
    if head[8:9] in (b"{", b"") and 1 < header <= MAX_HEADER and size >= 8:
        raise CutOff(size, f"its header alone takes {8 + header:,}")
    if any(start.startswith(head) for start in _STARTS):
        raise CutOff(size, "the start of a file of torch or of a zip")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.lower().startswith(_PAGES):
        raise InputError(where, "is a web page, not weights", f"{_FETCH}: its address needs a login, or shows a page")
    if text.startswith(b"{"):
        return "json"
    for start, problem, remedy in _OTHERS:
        if head.startswith(start):
            raise InputError(where, problem, remedy)
    if head[257:262] == b"ustar":
        raise InputError(where, "is a tar archive", _UNPACK)
    few = f" (or is cut off: {size} bytes are there)" if size < _TELLING else ""
    if not set(head) & (set(range(32)) - set(b"\t\n\f\r\x1b")):
        raise InputError(where, f"is a text file, not weights{few}", REMEDY)
    raise InputError(where, f"is no file of weights that is known here{few}", REMEDY)
