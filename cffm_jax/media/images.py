"""Images as viewers show them, see `data.pictures`."""

from __future__ import annotations

import importlib
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

import numpy as np
from PIL import AvifImagePlugin, BmpImagePlugin, ImageFile, WebPImagePlugin, features

from cffm_jax.channels import COLOURS, Channels
from cffm_jax.data import channel_files, decode
from cffm_jax.data.image_files import FRAME_READERS, FileName, UnreadableFile, read_bytes
from cffm_jax.data.layouts.names import numeric_order, passed_over_in_words
from cffm_jax.errors import InputError, first_few
from cffm_jax.media.frame import Frame, Selection, Source

READERS = {
    **FRAME_READERS,
    b"BM": BmpImagePlugin.BmpImageFile,
    b"RIFF": WebPImagePlugin.WebPImageFile,
}
"""First bytes -> what reads such a file; a RIFF may also be an .avi, see `is_image`."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".avif", ".npy")
"""Files of a folder that are taken for its images, in capitals or not."""
INSTALL_HEIF = "install pillow-heif (make install-heif, or pip install pillow-heif)"
_STILL = {b"avif", b"heic", b"heix", b"heim", b"heis", b"mif1", b"mif2"}
"""Kinds of files that are built like an .mp4 and hold pictures, by the name after ``ftyp``."""
_START = 256
"""Bytes that tell what a file is."""


def is_image(path: str) -> bool:
    """Whether a file's first bytes are those of an image.

    Raises:
      InputError: it cannot be read.
    """
    _require_ordinary(path)
    try:
        with open(path, "rb") as file:
            start = file.read(_START)
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", "check the path and its permissions") from error
    if start.startswith(b"RIFF"):
        return start[8:12] == b"WEBP"
    return channel_files.is_array(start) or any(start.startswith(first) for first in _readers(start))


def _readers(start: bytes) -> Mapping[bytes, type[ImageFile.ImageFile]]:
    """Readers of a file by first bytes: AVIF is Pillow's, HEIC that of pillow-heif if it is
    installed. Both put the tiles of a picture together, which as streams of a video stay apart."""
    if start[4:8] != b"ftyp" or start[8:12] not in _STILL:
        return READERS
    if b"avif" in start[8 : int.from_bytes(start[:4])]:
        return {start[:12]: AvifImagePlugin.AvifImageFile} if features.check("avif") else {}
    try:
        return {start[:12]: importlib.import_module("pillow_heif").HeifImageFile}
    except ImportError:
        return {}


def _require_ordinary(path: str) -> None:
    """InputError for a device, or a named pipe, which would be waited for until someone writes."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise UnreadableFile(path, "is no ordinary file", "name images alone, or move it away")


def in_order(paths: Sequence[str]) -> list[str]:
    """Sorted so that frame 10 follows frame 9."""
    return sorted(paths, key=numeric_order)


def list_images(folder: str) -> list[str]:
    """The images of a folder in order; hidden files are left out.

    Raises:
      InputError: there is none, two have one name but for the suffix, or the folder cannot be
        listed.
    """
    try:
        names = [entry.name for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(folder, f"cannot be listed ({error.strerror})", "check the folder's permissions") from error
    names = [name for name in in_order(names) if name.lower().endswith(SUFFIXES)]
    stems: dict[str, str] = {}
    for name in names:
        other = stems.setdefault(os.path.splitext(name)[0], name)
        if other != name:
            problem = f"is the frame of {other} a second time"
            raise InputError(os.path.join(folder, name), problem, "take one of them away, or name a pattern in quotes")
    paths = [os.path.join(folder, name) for name in names]
    if not paths:
        problem = f"holds no image ({', '.join(SUFFIXES)}) and no video"
        raise InputError(folder, problem, "name another folder; of several folders of frames a pattern in quotes")
    return paths


def left_out(folder: str, images: Sequence[str]) -> list[str]:
    """A remark on the files of a folder, but for hidden ones, that are none of its ``images`` (or
    videos)."""
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    paths, taken = [os.path.join(folder, name) for name in names], set(images)
    others = [path for path in paths if path not in taken and os.path.isfile(path)]
    return [f"{folder}: {passed_over_in_words(others)}"] if others else []


def open_images(paths: Sequence[str], name: str, selection: Selection, rate: float) -> Source:
    """Images as the frames of one video; only what was selected is read.

    Args:
      paths: the files in order.
      name: of all of them, for messages.
      selection: in numbers of frames.
      rate: frames a second that they stand for.

    Raises:
      InputError: while its frames are read: one cannot be read, or differs in size from the first.
    """
    numbers = range(len(paths))
    numbers = [n for n in numbers if n >= selection.start and (selection.end is None or n < selection.end)]
    numbers = numbers[:: selection.every]
    step = 1 / Fraction(rate).limit_denominator(1001)
    source = Source(
        name=name,
        frames=iter(()),
        rate=1 / step,
        tick=step / step.numerator,
        count=len(numbers),
        single=len(paths) == 1,
        files=True,
    )
    source.frames = _frames(source, paths, numbers, step)
    return source


def _frames(source: Source, paths: Sequence[str], numbers: Sequence[int], step: Fraction) -> Iterator[Frame]:
    several: list[FileName] = []
    stems = [os.path.splitext(os.path.basename(path))[0] for path in paths]
    doubled = max(Counter(stems).values()) > 1
    size = None
    for number in numbers:
        blank: list[FileName] = []
        pixels = read_image(paths[number], several, source.channels, blank)
        size = size or pixels.shape
        if pixels.shape != size:
            problem = f"is {pixels.shape[1]}x{pixels.shape[0]}, {paths[numbers[0]]} is {size[1]}x{size[0]}"
            raise InputError(paths[number], problem, "give images of one size")
        name = f"{number:06}" if doubled else stems[number]
        yield Frame(pixels, number, number * step, name, blank=bool(blank))
    if several:
        each = " each" if len(several) > 1 else ""
        few = first_few(several, 1)
        source.warnings.append(f"{few}:{each} holds more pictures than the first, which alone was taken")


def read_image(
    path: str,
    several: list[FileName] | None = None,
    channels: Channels = COLOURS,
    blank: list[FileName] | None = None,
) -> np.ndarray:
    """Reads a JPEG, PNG, BMP, TIFF, WebP, AVIF or HEIC file (the first image in it) as a viewer
    shows it.

    Args:
      path: the file.
      several: the path is added to it, if the file holds further images: an animation, or pages.
      channels: that it has; other than RGB it is a JPEG, PNG, TIFF or .npy.
      blank: the path is added to it, if no value is finite.

    Returns:
      u8[H,W,3], RGB: turned as EXIF says, transparency over black, 16 bits divided by 257. Of other
      channels f32[H,W,K], see `data.channel_files`.

    Raises:
      UnreadableFile: it cannot be read, is cut off, too large, or no such image.
    """
    _require_ordinary(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of tags that are damaged: the picture counts.
        data = read_bytes(path)
        return decode.decode_frame(path, data, _readers(data[:_START]) or READERS, several, channels, blank)
