"""Frames of any channels: values as they are stored, and a picture of them to look at.

PNG and JPEG hold 1, 3 or 4 samples a pixel, TIFF 1 or 3, of 8 or 16 bits or floats; a NumPy array (.npy)
[H,W] or [H,W,K] any number, of integers or floats.
"""

from __future__ import annotations

import io

import cv2
import numpy as np

from cffm_jax.channels import RGB, Channels
from cffm_jax.data.image_files import MAX_PIXELS, FileName, UnreadableFile, open_image

_ARRAY = b"\x93NUMPY"
_TIFF = b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"
_ORDERS = {3: [2, 1, 0], 4: [2, 1, 0, 3]}
"""OpenCV has blue first."""
_AGAIN = "copy or download the file again"
_AS_ARRAY = "save it as .npy [H,W,K]"
_SPREAD = 2.0
"""Standard deviations from the mean that a picture shows as black and white."""


def is_array(data: bytes) -> bool:
    return data.startswith(_ARRAY)


def is_stored(data: bytes) -> bool:
    """Whether a file's bytes are none of a dataset's usual pictures, but an array or a TIFF."""
    return is_array(data) or data.startswith(_TIFF)


def size(path: FileName, data: bytes) -> tuple[int, int]:
    """Height and width. UnreadableFile: see `read_values`."""
    height, width = read_values(path, data).shape[:2]
    return height, width


def decode(path: FileName, data: bytes, channels: Channels) -> np.ndarray:
    """A frame f32[H,W,K] from the bytes of its file; u8[H,W,3] of RGB.

    What is not finite, as where a depth is not known, is read as the channel's mean: 0 when it is
    normalised, as padding. Without a mean it stays.

    Raises:
      UnreadableFile: it cannot be read, or has another number of channels.
    """
    values = read_values(path, data)
    if values.shape[2] != len(channels):
        problem = f"has {values.shape[2]} channels, --data.channels {len(channels)} ({', '.join(channels.names)})"
        raise UnreadableFile(path, problem, "correct --data.channels, or the file")
    if channels.coloured:
        if values.dtype != np.uint8:
            raise UnreadableFile(path, f"holds {values.dtype}, RGB has bytes", "save it with 8 bits")
        return np.ascontiguousarray(values)
    values = values.astype(np.float32)
    finite = np.isfinite(values)
    if channels.mean and not finite.all():
        values = np.where(finite, values, np.array(channels.mean, np.float32))
    return np.ascontiguousarray(values)


def read_values(path: FileName, data: bytes) -> np.ndarray:
    """The values [H,W,K] of a file's bytes, as stored; palettes as RGB, and nothing is turned.

    Raises:
      UnreadableFile: it is cut off, damaged, too large, or of a kind that is not read.
    """
    values = _array(path, data) if is_array(data) else _image(path, data)
    return values if values.ndim == 3 else values[..., None]


def _array(path: FileName, data: bytes) -> np.ndarray:
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = header(file)
    except (ValueError, TypeError, SyntaxError, EOFError) as error:
        raise UnreadableFile(path, "is no array that NumPy reads", _AGAIN) from error
    if len(shape) not in (2, 3) or not all(shape) or dtype.kind not in "uif":
        raise UnreadableFile(path, f"holds {dtype} of shape {list(shape)}", "save integers or floats [H,W] or [H,W,K]")
    if shape[0] * shape[1] > MAX_PIXELS:
        raise UnreadableFile(path, f"has more than the {MAX_PIXELS} pixels allowed", "save it smaller")
    stored = data[file.tell() :]
    # Python's integers, which do not overflow: a header may claim anything.
    if len(stored) != dtype.itemsize * shape[0] * shape[1] * (shape[2] if len(shape) == 3 else 1):
        raise UnreadableFile(path, "is truncated, or longer than it says", _AGAIN)
    return np.frombuffer(stored, dtype).reshape(shape, order="F" if by_columns else "C")


def _image(path: FileName, data: bytes) -> np.ndarray:
    if not data.startswith(_TIFF):
        open_image(path, data)  # Refuses a size that OpenCV would believe, and what is no picture.
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise UnreadableFile(path, "is damaged, or of a kind that is not read", f"{_AGAIN}, or {_AS_ARRAY}")
    if data.startswith(_TIFF) and pixels.ndim == 3 and pixels.shape[2] == 4:  # OpenCV multiplies three by the fourth.
        raise UnreadableFile(path, "is a TIFF of 4 samples, which are not read as stored", _AS_ARRAY)
    if pixels.shape[0] * pixels.shape[1] > MAX_PIXELS:
        raise UnreadableFile(path, f"has more than the {MAX_PIXELS} pixels allowed", "save it smaller")
    return pixels[..., _ORDERS[pixels.shape[2]]] if pixels.ndim == 3 and pixels.shape[2] in _ORDERS else pixels


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
