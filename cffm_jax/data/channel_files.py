"""Frames of any channels: values as they are stored, and a picture of them to look at.

PNG and JPEG hold 1 to 4 samples a pixel, TIFF any number, of integers or floats, and so does a
NumPy array (.npy) [H,W] or [H,W,K].
"""

from __future__ import annotations

import importlib
import io
import logging
import lzma
import math
import os
import zlib
from typing import Any

import cv2
import numpy as np

from cffm_jax.channels import RGB, Channels
from cffm_jax.data.image_files import FRAME_READERS, MAX_PIXELS, TIFF, FileName, UnreadableFile, open_image
from cffm_jax.data.pictures import DAMAGED, grey_bits, orientation, unspread, upright

_ARRAY = b"\x93NUMPY"
_ORDERS = {3: [2, 1, 0], 4: [2, 1, 0, 3]}
"""OpenCV has blue first."""
_AGAIN = "copy or download the file again"
_AS_ARRAY = "save it as .npy [H,W,K]"
_MAX_VALUES = 4 * MAX_PIXELS
_TURN = 274
"""The tag of a TIFF's orientation; the values are those of EXIF."""
_NO_DATA = 42113
"""The tag of GDAL that says which value stands for missing ones."""
_REDUCED, _MASK = 1, 4
"""The bits of a TIFF page's type that mark a smaller copy of another page, and a mask, of which 0
says that nothing is there."""
_SPREAD = 2.0
"""Standard deviations from the mean that a picture shows as black and white."""


def is_array(data: bytes) -> bool:
    return data.startswith(_ARRAY)


def as_stored(data: bytes, channels: Channels) -> bool:
    """Whether a file's values are read as they are stored, and not as a picture in RGB."""
    return is_array(data) or not channels.coloured


def decode(
    path: FileName, data: bytes, channels: Channels, blank: list[FileName] | None = None
) -> tuple[np.ndarray, int | None]:
    """A frame f32[H,W,K] from the bytes of its file, upright, and its `pictures.orientation`. In
    RGB it is u8[H,W,3].

    What is not finite, as where a depth is not known, is read as the channel's mean: 0 when it is
    normalised, as padding; so is what GDAL calls "no data" in a TIFF. Without a mean it stays.
    The path of a frame without one finite value is added to ``blank``.

    Raises:
      UnreadableFile: it cannot be read, has another number of channels, or, without ``blank``, has
        no finite value.
    """
    values, turn = read_values(path, data)
    if values.shape[2] != len(channels):
        shape = "x".join(map(str, values.shape))
        problem = f"has {values.shape[2]} channels ({shape}), not {len(channels)} ({', '.join(channels.names)})"
        remedy = "give frames [H,W,K] with these channels; training names them by --data.channels"
        raise UnreadableFile(path, problem, remedy)
    if channels.coloured:
        if values.dtype != np.uint8:
            raise UnreadableFile(path, f"holds {values.dtype}, RGB has bytes", "save it with 8 bits")
        return np.ascontiguousarray(values), turn
    with np.errstate(over="ignore"):  # What float32 does not hold is infinite, and counts as such.
        values = values.astype(np.float32)
    finite = np.isfinite(values)
    if not finite.any():
        if blank is None:
            raise UnreadableFile(path, "has no finite value: nothing is in it", "leave it out, or write it again")
        blank.append(path)
    if channels.mean and not finite.all():
        values = np.where(finite, values, np.array(channels.mean, np.float32))
    return np.ascontiguousarray(values), turn


def read_values(path: FileName, data: bytes) -> tuple[np.ndarray, int | None]:
    """The values [H,W,K] of a file's bytes, upright, and its `pictures.orientation`; palettes as
    RGB.

    Raises:
      UnreadableFile: it is cut off, damaged, too large, or of a kind that is not read.
    """
    read = _array if is_array(data) else _tiff if data.startswith(TIFF) else _picture
    if os.fspath(path).lower().endswith(".npy") and not data.startswith((_ARRAY, *FRAME_READERS)):
        raise UnreadableFile(path, "is no array that NumPy reads", _AGAIN)
    values, turn = read(path, data)
    return upright(values if values.ndim == 3 else values[..., None], turn), turn


def _array(path: FileName, data: bytes) -> tuple[np.ndarray, None]:
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = header(file)
    except (ValueError, TypeError, SyntaxError, EOFError) as error:
        raise UnreadableFile(path, "is no array that NumPy reads", _AGAIN) from error
    _require_numbers(path, dtype, shape)
    _require_room(path, shape)
    stored = data[file.tell() :]
    if len(stored) != dtype.itemsize * math.prod(shape):
        raise UnreadableFile(path, "is truncated, or longer than it says", _AGAIN)
    return np.frombuffer(stored, dtype).reshape(shape, order="F" if by_columns else "C"), None


def _tiff(path: FileName, data: bytes) -> tuple[np.ndarray, int | None]:
    try:
        tifffile = importlib.import_module("tifffile")
        tifffile.logger().setLevel(logging.CRITICAL)  # What is wrong with a file is said once, in our words.
    except ImportError as error:
        remedy = f"install tifffile (make install-tiff, or pip install tifffile), or {_AS_ARRAY}"
        raise UnreadableFile(path, "is a TIFF, which tifffile reads, and that is not installed", remedy) from error
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            full = [page for page in file.pages if not page.subfiletype & _REDUCED]
            pages = [page for page in full if not page.subfiletype & _MASK]
            first = pages[0]
            # Several pictures of one sample each are channels too: nothing else can be meant by
            # them.
            if len(pages) > 1 and any(page.samplesperpixel > 1 or page.shape != first.shape for page in pages):
                raise UnreadableFile(path, f"holds {len(pages)} pictures", f"give each a file, or {_AS_ARRAY}")
            if first.colormap is not None:
                raise UnreadableFile(path, "is a TIFF with a palette", f"save it without, or {_AS_ARRAY}")
            _require_room(path, (first.imagelength, first.imagewidth, first.samplesperpixel * len(pages)))
            size = first.imagelength, first.imagewidth
            masks = [page for page in full if page.subfiletype & _MASK]
            if any(page.shape != size for page in masks):
                raise UnreadableFile(path, "holds a mask of another size", f"save it without, or {_AS_ARRAY}")
            masks = [page.asarray() for page in masks]
            missing = first.tags.get(_NO_DATA)
            tag = first.tags.get(_TURN)
            turn = int(tag.value) if tag is not None and tag.value in range(1, 9) else None
            values = np.stack([page.asarray() for page in pages], -1) if len(pages) > 1 else first.asarray()
            values = np.moveaxis(values, 0, -1) if first.axes.startswith("S") else values
    except UnreadableFile:
        raise
    # Of damaged files; that of a codec says which package has it.
    except (*DAMAGED, zlib.error, lzma.LZMAError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        first_of_all = "install imagecodecs (pip install imagecodecs)" if "imagecodecs" in why else _AGAIN
        raise UnreadableFile(path, f"cannot be read ({why})", f"{first_of_all}, or {_AS_ARRAY}") from error
    _require_numbers(path, values.dtype, values.shape)
    if missing is not None:
        values = np.where(values == _number(path, missing.value), np.nan, values)
    for mask in masks:
        values = np.where(mask[..., None] if values.ndim == 3 else mask, values, np.nan)
    return values, turn


def _number(path: FileName, words: object) -> float:
    """The value of a TIFF that stands for missing ones, which GDAL writes in words."""
    try:
        return float(str(words).strip("\0 "))
    except ValueError as error:
        raise UnreadableFile(path, f"states {words!r} for missing values, which is no number", _AS_ARRAY) from error


def _picture(path: FileName, data: bytes) -> tuple[np.ndarray, int | None]:
    image: Any = open_image(path, data)  # Refuses a size that OpenCV would believe, and what is no picture.
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise UnreadableFile(path, "is damaged, or of a kind that is not read", f"{_AGAIN}, or {_AS_ARRAY}")
    pixels = pixels[..., _ORDERS[pixels.shape[2]]] if pixels.ndim == 3 and pixels.shape[2] in _ORDERS else pixels
    pixels = pixels[..., [0, 3]] if image.mode == "LA" else pixels  # OpenCV repeats the grey.
    return unspread(pixels, grey_bits(data)), orientation(image, data)


def _require_numbers(path: FileName, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """UnreadableFile for what is no map of numbers."""
    if len(shape) not in (2, 3) or not all(shape) or dtype.kind not in "uif":
        raise UnreadableFile(path, f"holds {dtype} of shape {list(shape)}", "save integers or floats [H,W] or [H,W,K]")


def _require_room(path: FileName, shape: tuple[int, ...]) -> None:
    """UnreadableFile for a size that the memory would not hold; Python's integers do not
    overflow."""
    if shape[0] * shape[1] > MAX_PIXELS or math.prod(shape) > _MAX_VALUES:
        problem = f"claims {'x'.join(map(str, shape))} values, {MAX_PIXELS} pixels and {_MAX_VALUES} values are allowed"
        raise UnreadableFile(path, problem, "save it smaller")


def picture(frame: np.ndarray, channels: Channels) -> np.ndarray:
    """A frame [..., K] as a picture u8[..., 3] to look at: red, green and blue where they are among
    its channels, else the first channel as grey; mean +- 2 std are black and white. Bytes in RGB
    stay."""
    if channels.coloured:
        return frame
    shown = [channels.names.index(name) for name in RGB] if set(RGB) <= set(channels.names) else [0] * 3
    mean, std = (np.array(each, np.float32)[shown] for each in (channels.mean, channels.std))
    grey = (frame[..., shown] - mean) / (2 * _SPREAD * std) + 0.5
    return (np.clip(grey, 0, 1) * 255 + 0.5).astype(np.uint8)
