"""TFDS builders that write a dataset as records, one a frame, with its files' bytes as they are.

    builders.Frames(layout, root, plans, data_dir=...,
    file_format="array_record").download_and_prepare()

`prepare` is its command; `records` or anybody's ``tfds.builder_from_directory`` reads what they
write. TensorFlow is not needed. A `ShardBasedBuilder` keeps our order of records in bounded memory:
a `GeneratorBasedBuilder` without shuffling sorts a whole split in memory.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from cffm_jax.data.image_files import FileName, UnreadableFile, read_bytes
from cffm_jax.data.labels.mask_files import claims_of_file
from cffm_jax.data.layouts import class_file, records
from cffm_jax.data.layouts.layout import Layout
from cffm_jax.data.layouts.read import read_split
from cffm_jax.data.layouts.records import FRAME, FRAME_NAME, MASK_NAME, MASKS
from cffm_jax.data.layouts.video import Coding, Video
from cffm_jax.data.palettes import Claim
from cffm_jax.errors import InputError
from cffm_jax.runtime.atomic import write_text
from cffm_jax.runtime.checksums import Manifest, digest_of_file, relative_name
from cffm_jax.runtime.read_ahead import read_ahead

SHARD_BYTES = 512 * 2**20
"""Size of a file of records: few files, none too large to be copied again."""


class Frame(NamedTuple):
    """Contents of a record: a frame's file, its mask's, and the size of both together."""

    frame: FileName
    mask: FileName | None
    size: int


class _Read(NamedTuple):
    """The bytes of a record's files, and what the mask says of its values."""

    frame: bytes
    mask: bytes | None = None
    found: tuple[Claim, ...] = ()


@dataclasses.dataclass(frozen=True)
class Plan:
    """The records of a split to write.

    Attributes:
      frames: a record each, in their order; a frame that is in several videos has one.
      labelled: the videos of `read_split` with masks; None where there are none to be had.
      every: those without masks.
      unlabelled: why there are no masks, "" where there are.
    """

    frames: tuple[Frame, ...]
    labelled: tuple[Video, ...] | None
    every: tuple[Video, ...]
    unlabelled: str = ""

    @property
    def size(self) -> int:
        return sum(frame.size for frame in self.frames)

    def shards(self) -> list[tuple[int, int]]:
        """Ranges of frames, each of at most SHARD_BYTES (or one frame)."""
        shards, start, size = [], 0, 0
        for i, frame in enumerate(self.frames):
            if i > start and size + frame.size > SHARD_BYTES:
                shards.append((start, i))
                start, size = i, 0
            size += frame.size
        return [*shards, (start, len(self.frames))]


def plan(root: str, split: str, layout: str | Layout, may_lack_masks: bool) -> Plan:
    """Lists a split and measures its files; with ``may_lack_masks`` incomplete masks are left out.

    Raises:
      InputError: as for `read_split`, or a file cannot be looked at.
    """
    labelled, why = None, ""
    try:
        labelled = read_split(root, split, True, layout)
    except InputError as error:
        if not may_lack_masks:
            raise
        why = str(error)
    every = read_split(root, split, False, layout)
    masks: dict[FileName, FileName | None] = {}
    for video in (*(labelled or ()), *every):
        for name, mask in itertools.zip_longest(video.frames, video.masks):
            masks[name] = mask or masks.get(name)
    frames = tuple(Frame(frame, mask, _size(frame) + (_size(mask) if mask else 0)) for frame, mask in masks.items())
    for name in filter(None, itertools.chain.from_iterable(masks.items())):
        try:
            os.fspath(name).encode()
        except UnicodeEncodeError as error:
            raise InputError(repr(name), "its name is no UTF-8, which TFDS needs", "rename the file") from error
    return Plan(frames, labelled, every, why)


def _size(path: FileName) -> int:
    try:
        return os.stat(path).st_size
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        raise UnreadableFile(path, problem, "check the path and its permissions") from error


class _Info(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Does nothing: there is no bucket, and asking would leave an empty folder behind."""


class Frames(tfds.core.ShardBasedBuilder, skip_registration=True):
    """One record a frame: its file's bytes and name, and those of its mask where it has one."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(
        self,
        layout: Layout,
        root: str,
        plans: Mapping[str, Plan],
        *,
        written: Callable[[int], object] = lambda size: None,
        manifest: Manifest | None = None,
        threads: int = 8,
        **kwargs: Any,
    ):
        """Takes the dataset's folder and what is written of each split.

        Args:
          layout: one with `Layout.prepared`.
          root: the dataset's folder.
          plans: split -> `plan`.
          written: called with the bytes of every frame that is done.
          manifest: what the files' bytes must be.
          threads: files read at the same time.
          **kwargs: TFDS's own: ``data_dir``, ``file_format="array_record"``.
        """
        self._layout, self.name = layout, layout.prepared.name
        self._root, self._plans, self._written = root, plans, written
        self._manifest, self._threads = manifest, threads
        self._coding = next((video.coding for each in plans.values() for video in each.labelled or ()), Coding(b"", ""))
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            FRAME: tfds.features.Image(doc="its file as it was: JPEG, PNG, TIFF or .npy"),
            FRAME_NAME: tfds.features.Text(doc="its file, relative to the dataset's folder"),
            # TFDS has no optional image: none or one.
            MASKS: tfds.features.Sequence(tfds.features.Image(shape=(None, None, 1)), doc="PNG as it was, or none"),
            MASK_NAME: tfds.features.Text(doc="its file, or nothing"),
        }
        return _Info(
            builder=self,
            description=self._layout.prepared.description,
            homepage=self._layout.prepared.homepage or None,
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[Callable[[], Iterator[tuple[int, dict]]]]]:
        del dl_manager  # Nothing is downloaded.
        return {
            split: [_Shard(self, each.frames[start:stop]) for start, stop in each.shards()]
            for split, each in self._plans.items()
        }

    def examples(self, frames: Sequence[Frame]) -> Iterator[tuple[int, dict[str, Any]]]:
        """The records of some frames, read a few ahead.

        Raises:
          UnreadableFile: see `image_files.read_bytes`.
          InputError: the palettes of masks contradict each other, see `palettes`.
        """

        def reads(each: Frame) -> list[Callable[[], _Read]]:
            return [functools.partial(self._read, each)]

        pool = ThreadPoolExecutor(self._threads)
        try:
            for i, (each, ((frame, mask, found),)) in enumerate(read_ahead(pool, frames, reads, self._threads)):
                if each.mask and self._coding.palettes is not None:
                    self._coding.palettes.require(each.mask, found)
                example = {
                    FRAME: frame,
                    FRAME_NAME: relative_name(each.frame, self._root),
                    MASKS: [] if mask is None else [mask],
                    MASK_NAME: relative_name(each.mask, self._root) if each.mask else "",
                }
                yield i, example
                example.clear()  # TFDS keeps a shard's examples until all are written, to count them.
                self._written(each.size)
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, each: Frame) -> _Read:
        frame = read_bytes(each.frame, self._manifest)
        if each.mask is None:
            return _Read(frame)
        mask = read_bytes(each.mask, self._manifest)
        found = () if self._coding.palettes is None else claims_of_file(each.mask, mask, self._coding)
        return _Read(frame, mask, found)

    def _post_download_and_prepare_hook(self) -> None:
        """Adds the class file and, last, the index: without it a folder is not finished."""
        folder = Path(self.data_dir)
        for name in class_file.NAMES:
            if os.path.exists(os.path.join(self._root, name)):
                shutil.copyfile(os.path.join(self._root, name), folder / name)
        codings: list[Coding] = []
        splits = {split: self._index_of(each, codings) for split, each in self._plans.items()}
        names = sorted(path.name for path in folder.iterdir())
        digested = [name for name in names if not name.startswith(f"{self.name}-")]
        index = {
            "format": records.FORMAT,
            "layout": self._layout.name,
            "codings": [[coding.table.hex(), coding.says] for coding in codings],
            "splits": splits,
            "sizes": {name: (folder / name).stat().st_size for name in names},
            "digests": {name: digest_of_file(folder / name).hex() for name in digested},
        }
        write_text(folder / records.INDEX, json.dumps({**index, "sha256": records.digest(index)}))

    def _index_of(self, each: Plan, codings: list[Coding]) -> dict[str, Any]:
        record_of = {frame.frame: i for i, frame in enumerate(each.frames)}
        bare = tuple(dataclasses.replace(video, masks=()) for video in each.labelled or ())
        return {
            "files": [
                [relative_name(frame.frame, self._root), frame.mask and relative_name(frame.mask, self._root)]
                for frame in each.frames
            ],
            "labelled": each.labelled and records.rows(each.labelled, record_of, codings),
            "every": None if bare == each.every else records.rows(each.every, record_of, codings),
        }


class _Shard(NamedTuple):
    """The interface that TFDS calls for the examples of a file of records."""

    builder: Frames
    frames: Sequence[Frame]

    def __call__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        return self.builder.examples(self.frames)
