"""All that is in the files of one video, and all that is wrong with them."""

from __future__ import annotations

import collections
import dataclasses

import numpy as np

from cffm_jax.channels import COLOURS, Channels
from cffm_jax.config import IGNORED_LABEL
from cffm_jax.data import decode
from cffm_jax.data.image_files import FileName, UnreadableFile
from cffm_jax.data.labels import mask_files
from cffm_jax.data.layouts.listing import MASKS, SIZES, UNREADABLE, Listed, Problem
from cffm_jax.data.layouts.records import read_all
from cffm_jax.data.palettes import Claim
from cffm_jax.errors import InputError
from cffm_jax.runtime.checksums import digest, relative_name


@dataclasses.dataclass
class VideoFound:
    """Contents of one video's files.

    Attributes:
      name: of the video.
      place: its name in messages, relative to the dataset's folder.
      length: number of frames, readable or not.
      sizes: (width, height) -> frames of that size.
      masks: masks that could be read.
      pixels: i64[256], pixels of each class (255: ignored).
      frames: i64[256], masks that hold the class.
      digests: relative name -> sha256 of the files that could be read.
      contents: sha256 of its frames.
      problems: what is wrong with it.
      palettes: what palettes say of masks' values, where no colours are stated, and the first mask
        that does so.
      moments: f64[3,K], for each channel how many finite values there are, their sum and their
        squares'.
      passed_over: what else lies in its folders, neither frames nor masks.
    """

    name: str
    place: str
    length: int = 0
    sizes: collections.Counter[tuple[int, int]] = dataclasses.field(default_factory=collections.Counter)
    masks: int = 0
    pixels: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(256, np.int64))
    frames: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(256, np.int64))
    digests: dict[str, bytes] = dataclasses.field(default_factory=dict)
    contents: set[bytes] = dataclasses.field(default_factory=set)
    problems: list[Problem] = dataclasses.field(default_factory=list)
    palettes: dict[tuple[Claim, ...], str] = dataclasses.field(default_factory=dict)
    passed_over: tuple[str, ...] = ()
    moments: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((3, 1)))


def look_at_video(
    root: str,
    listed: Listed,
    num_classes: int,
    channels: Channels = COLOURS,
    moments: bool = False,
    palettes: bool = False,
) -> VideoFound:
    """Reads all files of a video; ``moments`` and ``palettes``: whether to take down those of its
    frames and masks."""
    result = VideoFound(listed.name, listed.place, len(listed.frames), passed_over=listed.passed_over)

    def add(group: str, file: FileName, problem: str, remedy: str) -> None:
        result.problems.append(Problem(group, relative_name(file, root), problem, remedy, listed.name))

    shapes: dict[str, tuple[int, int]] = {}
    turns: dict[str, int | None] = {}
    for stem, path in listed.frames.items():
        try:
            (data,) = read_all([path])
            frame, turns[stem] = decode.decode_upright(path, data, channels=channels)
            shapes[stem] = frame.shape[1::-1]
            if moments:
                result.moments = result.moments + _moments(frame)
        except InputError as error:
            add(UNREADABLE, error.where, error.problem, error.remedy)
        else:
            result.digests[relative_name(path, root)] = digest(data)
            result.contents.add(digest(data))
    result.sizes.update(shapes.values())
    if len(result.sizes) > 1:
        (width, height), _ = result.sizes.most_common(1)[0]
        for stem, (w, h) in shapes.items():
            if (w, h) != (width, height):
                problem = f"is {w}x{h}, most frames of the video {width}x{height}"
                add(SIZES, listed.frames[stem], problem, "give all frames of a video one size")
    for stem, path in listed.masks.items():
        try:
            size, turn = _look_at_mask(result, path, listed, root, num_classes, palettes)
            if stem in shapes:
                frame_size = shapes[stem][::-1]
                try:
                    decode.require_one_way(listed.frames[stem], path, frame_size, size, turns[stem], turn)
                except InputError as error:
                    add(SIZES, error.where, error.problem, error.remedy)
        except InputError as error:
            add(UNREADABLE if isinstance(error, UnreadableFile) else MASKS, error.where, error.problem, error.remedy)
    return result


def _moments(frame: np.ndarray) -> np.ndarray:
    """f64[3,K] of a frame [H,W,K], see `VideoFound`."""
    there = np.isfinite(frame)
    values = np.where(there, frame, 0).astype(np.float64)
    return np.stack([there.sum((0, 1)), values.sum((0, 1)), np.square(values).sum((0, 1))])


def _look_at_mask(
    result: VideoFound, path: FileName, listed: Listed, root: str, num_classes: int, palettes: bool
) -> tuple[tuple[int, ...], int | None]:
    """Counts a mask's labels. Returns its height and width, and its `pictures.orientation`.

    Raises:
      InputError: it cannot be used.
    """
    (data,) = read_all([path])
    coding, values = listed.coding, mask_files.read_values(path, data)
    # Read with all the classes that there can be, so that all labels are counted.
    labels = decode.labels_of(path, values, coding.num_classes, coding)
    result.digests[relative_name(path, root)] = digest(data)
    result.masks += 1
    counts = np.bincount(labels.reshape(-1), minlength=256)
    result.pixels += counts
    result.frames += counts > 0
    if palettes and not coding.colours:
        result.palettes.setdefault(mask_files.claims_of(values, coding), relative_name(path, root))
    other = np.flatnonzero(counts[num_classes:IGNORED_LABEL])
    if len(other):
        byte = coding.byte_of(num_classes + int(other[-1]))
        problem = f"holds label {byte}, but there are {num_classes} classes ({coding.words(num_classes)})"
        remedy = "correct the mask, or give --num-classes"
        result.problems.append(Problem(MASKS, relative_name(path, root), problem, remedy, listed.name))
    return labels.shape, values.turn
