"""Pixels of image files as viewers show them: the one reader of a dataset's frames and of inputs.

Upright, grey and palettes as RGB, 16 bits as 8, opaque on black.
"""

from __future__ import annotations

import struct

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from cffm_jax.data.image_files import FileName, UnreadableFile, quiet

_BY_OPENCV = JpegImagePlugin.JpegImageFile, PngImagePlugin.PngImageFile
_READ_COLOURS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
_BIT_DEPTH, _COLOUR_TYPE = 24, 25
"""Their bytes in a PNG."""
_GREY = 0
_MAY_TURN = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}
"""Keys of an image's `info` under which Pillow looks for the orientation."""
_AGAIN = "copy or download the file again"
DAMAGED = OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, struct.error
"""What Pillow raises for a damaged image: all of these occur."""


def is_png(data: bytes) -> bool:
    return data.startswith(b"\x89PNG")


def grey_bits(data: bytes) -> int:
    """Bits of a grey PNG's pixels, 0 for any other file; the header must have been read."""
    return data[_BIT_DEPTH] if is_png(data) and data[_COLOUR_TYPE] == _GREY else 0


def unspread(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Values of a grey PNG of so many bits as the file holds them: readers spread those of fewer
    than 8 over 0..255. Others (0 bits, 8 or more) stay."""
    return pixels // (255 // (2**bits - 1)) if 0 < bits < 8 else pixels


def orientation(image: Image.Image, data: bytes) -> int | None:
    """How viewers turn an image, 1..8 as in EXIF; None where it does not say, or is damaged there.

    Args:
      image: an opened JPEG, PNG or TIFF, of which the header alone is read here.
      data: the bytes of its file; a PNG's EXIF may stand behind the pixels.
    """
    late = is_png(data) and data.find(b"eXIf", data.rfind(b"IDAT")) >= 0
    if not late and image.format != "TIFF" and not _MAY_TURN & image.info.keys():
        return None
    with quiet():
        try:
            value = image.getexif().get(ExifTags.Base.Orientation)
        except DAMAGED:
            return None
    return value if value in range(1, 9) else None


def upright(pixels: np.ndarray, turn: int | None) -> np.ndarray:
    """An image [H,W,...] as viewers show it, see `orientation`; itself where nothing turns it."""
    if turn in (None, 1):
        return pixels
    pixels = pixels.swapaxes(0, 1) if turn >= 5 else pixels
    pixels = pixels[::-1] if turn in (3, 4, 7, 8) else pixels
    return np.ascontiguousarray(pixels[:, ::-1] if turn in (2, 3, 6, 7) else pixels)


def decode_picture(path: FileName, data: bytes, image: Image.Image) -> np.ndarray:
    """The pixels of an image (the first in its file).

    Args:
      path: for messages.
      data: the bytes of its file.
      image: of `image_files.open_image`.

    Returns:
      u8[H,W,3], RGB: turned as EXIF says, transparency over black, 16 bits divided by 257.

    Raises:
      UnreadableFile: it is cut off, damaged, or of a kind without a known range.
    """
    if isinstance(image, _BY_OPENCV) and image.mode != "CMYK" and not image.has_transparency_data:
        return upright(_by_opencv(path, data), orientation(image, data))
    try:
        return _by_pillow(path, image)
    except DAMAGED as error:
        problem = "cannot be read (truncated, damaged or of an unknown kind)"
        raise UnreadableFile(path, problem, f"{_AGAIN}, or save it as PNG") from error


def _by_opencv(path: FileName, data: bytes) -> np.ndarray:
    deep = is_png(data) and data[_BIT_DEPTH] == 16
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), _READ_COLOURS | (cv2.IMREAD_ANYDEPTH if deep else 0))
    except cv2.error:
        pixels = None
    if pixels is None:
        raise UnreadableFile(path, "is damaged or no image", _AGAIN)
    return _as_bytes(pixels) if deep else pixels


def _by_pillow(path: FileName, image: Image.Image) -> np.ndarray:
    # Pillow turns grey that counts from white round where it has 8 bits or fewer.
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    from_white = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        grey = np.asarray(image)
        grey = 65535 - grey if from_white and image.mode.startswith("I;16") else grey
        if grey.size and grey.min() < 0:
            raise _no_range(path, "numbers below 0")
        if max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (0,))) > 16 or (grey.size and grey.max() > 65535):
            raise _no_range(path, "32 bits")
        return np.repeat(_as_bytes(grey)[..., None], 3, axis=-1)
    if image.mode == "F":
        raise _no_range(path, "floats")
    if image.has_transparency_data:
        pixels = np.asarray(image.convert("RGBA")).astype(np.uint16)
        return ((pixels[..., :3] * pixels[..., 3:] + 127) // 255).astype(np.uint8)
    return np.array(image.convert("RGB"))


def _as_bytes(pixels: np.ndarray) -> np.ndarray:
    """16 bits as 8."""
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _no_range(path: FileName, samples: str) -> UnreadableFile:
    return UnreadableFile(path, f"holds {samples}, of which no range is known", "save it with 8 or 16 bits")
