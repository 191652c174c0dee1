"""Frames and masks from the bytes of their files."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

from cffm_jax.channels import COLOURS, Channels
from cffm_jax.data import channel_files, pictures
from cffm_jax.data.image_files import FRAME_READERS, TIFF, FileName, UnreadableFile, open_image
from cffm_jax.data.labels import mask_files
from cffm_jax.data.layouts.records import read_all, read_one
from cffm_jax.data.layouts.video import NO_CLASS, Coding
from cffm_jax.errors import InputError

_PNG_END = b"IEND\xaeB`\x82"
_FRAME_IS_TURNED = (
    "if the mask fits the stored pixels, take the turn off the frame (exiftool -Orientation= FILE); "
    "if it fits the upright frame, turn the frame's pixels (mogrify -auto-orient FILE)"
)
_MASK_IS_TURNED = (
    "if the mask fits the frame as it is stored, take the turn off the mask (exiftool -Orientation= FILE); "
    "if it fits upright, turn the mask's pixels (mogrify -auto-orient FILE)"
)


def read_frame(path: FileName, channels: Channels = COLOURS) -> np.ndarray:
    """Reads an image as u8[H,W,3] RGB, as viewers show it, see `pictures.decode_picture`.

    Args:
      path: a JPEG, PNG, TIFF or .npy.
      channels: that it has; other than RGB they are f32[H,W,K], see `channel_files.decode`.

    Raises:
      UnreadableFile: it is unreadable, cut off, no image or too large.
    """
    return decode_frame(path, read_one(path), channels=channels)


def read_picture(path: FileName, channels: Channels) -> np.ndarray:
    """A frame as a picture u8[H,W,3] to look at, see `channel_files.picture`."""
    return channel_files.picture(read_frame(path, channels), channels)


def decode_frame(
    path: FileName,
    data: bytes,
    readers: Mapping[bytes, type[ImageFile.ImageFile]] = FRAME_READERS,
    several: list[FileName] | None = None,
    channels: Channels = COLOURS,
    blank: list[FileName] | None = None,
) -> np.ndarray:
    """`read_frame` of a file whose bytes are there already.

    Args:
      path: of the file.
      data: its bytes.
      readers: of the kinds of files that may be read, as for `image_files.open_image`.
      several: the path is added to it, if the file holds further images: an animation, or pages.
      channels: that it has.
      blank: the path is added to it, if no value is finite; None: that is refused.
    """
    return decode_upright(path, data, readers, several, channels, blank)[0]


def decode_upright(
    path: FileName,
    data: bytes,
    readers: Mapping[bytes, type[ImageFile.ImageFile]] = FRAME_READERS,
    several: list[FileName] | None = None,
    channels: Channels = COLOURS,
    blank: list[FileName] | None = None,
) -> tuple[np.ndarray, int | None]:
    """`decode_frame`, and how the frame is turned (`pictures.orientation`)."""
    # OpenCV before 5 decodes what there is of a truncated JPEG with no more than a warning on
    # stderr. In the coded image no marker can occur by chance, so a whole file has an end of image
    # after its last start of scan.
    if data.startswith(b"\xff\xd8") and data.rfind(b"\xff\xd9") <= data.rfind(b"\xff\xda"):
        raise UnreadableFile(path, "is truncated: the JPEG's end is missing", "copy or download the file again")
    stored = channel_files.as_stored(data, channels)
    image = None if stored else _opened(path, data, readers)  # Refuses a size that OpenCV would believe.
    if pictures.is_png(data) and data.rfind(_PNG_END) < 0:
        raise UnreadableFile(path, "is truncated: the PNG's end is missing", "copy or download the file again")
    if image is None:
        return channel_files.decode(path, data, channels, blank)
    if several is None and image.format in ("TIFF", "PNG") and getattr(image, "n_frames", 1) > 1:
        problem = f"holds {image.n_frames} pictures"  # pyrefly: ignore[missing-attribute]
        remedy = "give each a file (pages of a TIFF that are channels: name --data.channels)"
        raise UnreadableFile(path, problem, remedy)
    # The second: a JPEG with another behind it.
    if several is not None and (getattr(image, "is_animated", False) or "mp" in image.info):
        several.append(path)
    turn = pictures.orientation(image, data)  # Before the pixels: a TIFF is turned with them, and says so no more.
    return pictures.decode_picture(path, data, image), turn


def _opened(path: FileName, data: bytes, readers: Mapping[bytes, type[ImageFile.ImageFile]]) -> Image.Image:
    """`open_image`, with a word on a TIFF of which Pillow does not know the samples, or takes the
    first alone."""
    problem = "is a TIFF of other samples than a picture's in RGB, or damaged"
    remedy = "name its channels (--data.channels, in training), or save it as PNG"
    try:
        image = open_image(path, data, readers)
    except UnreadableFile as error:
        if not data.startswith(TIFF):
            raise
        raise UnreadableFile(path, problem, remedy) from error
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        samples = image.tag_v2.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)
        if samples != len(image.getbands()):
            raise UnreadableFile(path, f"{problem} ({samples} samples a pixel)", remedy)
    return image


def read_mask(path: FileName, num_classes: int, coding: Coding) -> np.ndarray:
    """Reads a mask as u8[H,W] with labels 0..num_classes-1 and 255 for ignored pixels.

    The file holds one byte a pixel, grey or palette, coded as ``coding`` says. Grey of fewer bits
    is read as stored. Of a palette the index counts, not the colour, unless ``coding`` states the
    classes' colours and the palette has them in another order. An orientation of the mask's own
    turns it; how it lies beside a frame that is turned, `read_pair` and `read_label` ask.

    Raises:
      UnreadableFile: it is unreadable, cut off, no image or too large.
      InputError: it has other pixels, holds a label above num_classes, or a colour that none has.
    """
    return decode_mask(path, read_one(path), num_classes, coding)


def decode_mask(path: FileName, data: bytes, num_classes: int, coding: Coding) -> np.ndarray:
    """`read_mask` of a file whose bytes are there already."""
    return labels_of(path, mask_files.read_values(path, data), num_classes, coding)


def labels_of(path: FileName, mask: mask_files.MaskFile, num_classes: int, coding: Coding) -> np.ndarray:
    """The labels of a mask's values, as of `read_mask`."""
    labels = mask_files.to_labels(mask.values, mask_files.classes_of_values(path, mask, coding), num_classes)
    if (labels == NO_CLASS).any():
        value = int(mask.values[labels == NO_CLASS].max())
        problem = f"holds label {value} but the model has {num_classes} classes ({coding.words(num_classes)})"
        raise InputError(
            path, problem, "check the mask, and the number of classes: that of classes.txt, or --model.num-classes"
        )
    return labels


def read_pair(
    frame: FileName,
    mask: FileName,
    num_classes: int,
    coding: Coding,
    channels: Channels = COLOURS,
) -> tuple[np.ndarray, np.ndarray]:
    """Reads a frame u8[H,W,3] and its mask u8[H,W]; see `read_frame` and `read_mask`.

    Raises:
      InputError: one of the two cannot be used, their sizes differ, or the frame is turned and the
        mask leaves open which way it lies.
    """
    frame_data, mask_data = read_all([frame, mask])
    return decode_pair(frame, mask, frame_data, mask_data, num_classes, coding, channels)


def decode_pair(
    frame: FileName,
    mask: FileName,
    frame_data: bytes,
    mask_data: bytes,
    num_classes: int,
    coding: Coding,
    channels: Channels = COLOURS,
) -> tuple[np.ndarray, np.ndarray]:
    """`read_pair` of files whose bytes are there already."""
    image, turn = decode_upright(frame, frame_data, channels=channels)
    values = mask_files.read_values(mask, mask_data)
    labels = labels_of(mask, values, num_classes, coding)
    require_one_way(frame, mask, image.shape[:2], labels.shape, turn, values.turn)
    return image, labels


def read_label(frame: FileName, mask: FileName, num_classes: int, coding: Coding) -> np.ndarray:
    """Reads a frame's mask alone, as `read_pair`; of the frame only the header is looked at."""
    frame_data, mask_data = read_all([frame, mask])
    values = mask_files.read_values(mask, mask_data)
    labels = labels_of(mask, values, num_classes, coding)
    size, turn = upright_size(frame, frame_data)
    require_one_way(frame, mask, size, labels.shape, turn, values.turn)
    return labels


def upright_size(path: FileName, data: bytes) -> tuple[tuple[int, int], int | None]:
    """Height and width of a frame as it is shown, and its `pictures.orientation`."""
    if not channel_files.is_array(data):
        try:
            image = open_image(path, data, FRAME_READERS)
        except UnreadableFile:
            if not data.startswith(TIFF):  # Of which Pillow does not open all.
                raise
        else:
            turn, (width, height) = pictures.orientation(image, data), image.size
            # Pillow gives the size of a TIFF as it is shown, that of others as it is stored.
            return (width, height) if (turn or 1) >= 5 and image.format != "TIFF" else (height, width), turn
    values, turn = channel_files.read_values(path, data)
    return values.shape[:2], turn


def require_one_way(
    frame: FileName,
    mask: FileName,
    size: tuple[int, int],
    mask_size: tuple[int, ...],
    frame_turn: int | None,
    mask_turn: int | None,
) -> None:
    """InputError unless a mask lies on its frame, both upright.

    Masks are made with programs that follow EXIF, and with programs that do not. Where one of the
    two is turned and the other says nothing of its own, their sizes tell which by a quarter turn,
    and nothing does by a half turn.

    Args:
      frame, mask: the files.
      size, mask_size: height and width of both, upright.
      frame_turn, mask_turn: what they say, see `pictures.orientation`.
    """
    (height, width), (h, w) = size, mask_size
    of_frame = (frame_turn or 1) != 1 and mask_turn is None
    of_mask = (mask_turn or 1) != 1 and frame_turn is None
    quarter = ((frame_turn if of_frame else mask_turn) or 1) >= 5
    if size != mask_size:
        problem, remedy = f"is {w}x{h} but its frame is {width}x{height}", f"give it the size of {frame}"
        if quarter and size == mask_size[::-1]:
            if of_frame:
                problem = f"is {w}x{h}, as the frame is stored, but EXIF turns that upright to {width}x{height}"
                remedy = _FRAME_IS_TURNED
            elif of_mask:
                problem = f"is {width}x{height} as it is stored, as its frame is, but its EXIF turns it to {w}x{h}"
                remedy = _MASK_IS_TURNED
        raise InputError(mask, problem, remedy)
    if (of_frame or of_mask) and (not quarter or height == width):
        problem = f"does not say whether it is turned, as its frame is by EXIF (orientation {frame_turn})"
        if of_mask:
            problem = f"is turned by EXIF (orientation {mask_turn}), and {frame} does not say whether it is"
        raise InputError(mask, problem, _FRAME_IS_TURNED if of_frame else _MASK_IS_TURNED)
