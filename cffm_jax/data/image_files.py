"""Bytes of image files, and limits that keep hostile or damaged ones from filling the memory."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import threading
import warnings
from collections.abc import Iterator, Mapping

from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from cffm_jax.errors import InputError
from cffm_jax.runtime.checksums import Manifest

FileName = str | os.PathLike[str]
"""A path, or what stands for a file that lies in another one."""
MAX_BYTES = 128 * 2**20
"""Largest file that is read: an 8K frame (7680x4320) without any compression has 95 MiB."""
MAX_PIXELS = 2**26
"""Largest image that is decoded, by its header: twice an 8K frame, 192 MiB in memory."""

_AGAIN = "copy or download the file again"
_SMALLER = "it is damaged or hostile; remove it or save it smaller"
_JPEG = b"\xff\xd8"
_TAGS = 2**16
"""Bytes at a JPEG's start that EXIF lies in."""
DATASET_READERS = {_JPEG: JpegImagePlugin.JpegImageFile, b"\x89PNG\r\n\x1a\n": PngImagePlugin.PngImageFile}
"""First bytes -> reader of such a file, which reads only the header until pixels are asked for."""
TIFF = b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"
"""First bytes of a TIFF."""
FRAME_READERS = {**DATASET_READERS, **dict.fromkeys(TIFF, TiffImagePlugin.TiffImageFile)}
"""Of frames, where masks are PNGs alone."""


_WARNINGS = threading.Lock()


class UnreadableFile(InputError):
    """A file whose pixels cannot be had; training may skip it (`DataConfig.max_unreadable`)."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing is warned of within: of damaged tags, for one, as the picture counts. Python's
    filters are all threads', so that one at a time changes them."""
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read_bytes(path: FileName, manifest: Manifest | None = None) -> bytes:
    """The bytes of a file.

    Raises:
      UnreadableFile: it cannot be read, exceeds MAX_BYTES, or is not what the manifest says.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            # One byte more shows a file that is longer than it says; no more, as room is made for
            # all of them.
            data = file.read(size + 1) if size <= MAX_BYTES else b""
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        raise UnreadableFile(path, problem, "check the path and its permissions") from error
    if size > MAX_BYTES:
        problem = f"has {size} bytes, more than the {MAX_BYTES} allowed"
        raise UnreadableFile(path, problem, "it is no frame of a video; remove it")
    if len(data) != size:
        raise UnreadableFile(path, "is being written, or is no ordinary file", _AGAIN)
    if manifest is not None:
        problem = manifest.problem(path, data)
        if problem:
            raise UnreadableFile(path, problem, _AGAIN)
    return data


def open_image(
    path: FileName, data: bytes, readers: Mapping[bytes, type[ImageFile.ImageFile]] = DATASET_READERS
) -> Image.Image:
    """The image in a file's bytes; only its header has been read, pixels are decoded on demand.

    Raises:
      UnreadableFile: the bytes suit no reader (none of their first bytes), or claim more than
        MAX_PIXELS.
    """
    reader = next((reader for start, reader in readers.items() if data.startswith(start)), None)
    try:
        if reader is None:
            raise SyntaxError("unknown first bytes")
        # The resolution of a JPEG may stand in its EXIF alone, which Pillow then reads.
        with quiet() if data.startswith(_JPEG) and data.find(b"Exif", 0, _TAGS) >= 0 else contextlib.nullcontext():
            image = reader(io.BytesIO(data))
    # What Pillow raises for a header cut off or damaged anywhere: all of these occur.
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, RuntimeError, struct.error) as error:
        *kinds, last = sorted({kind.format or kind.__name__ for kind in readers.values()})
        problem = f"is damaged or no image (no {', '.join(kinds)} or {last})"
        raise UnreadableFile(path, problem, _AGAIN) from error
    except Image.DecompressionBombError as error:  # Pillow's own limit, which it has for WebP alone before ours.
        raise UnreadableFile(path, f"claims more than the {MAX_PIXELS} pixels allowed", _SMALLER) from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        problem = f"claims {width}x{height} pixels, more than the {MAX_PIXELS} allowed"
        raise UnreadableFile(path, problem, _SMALLER)
    return image
