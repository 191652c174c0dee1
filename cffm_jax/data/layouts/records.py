"""Datasets as records of a frame and its mask, in a few large files for TFDS and array_record.

    <root>/<dataset>-<split>.array_record-00000-of-00012  the records: bytes of the files, and names
    <root>/dataset_info.json, features.json               what TFDS knows of them
    <root>/videos.json                                    the index: what `read_split` lists
    <root>/classes.txt or classes.json                    where the folder has one

`prepare` writes them, `builders` says how. A record is read where a file's bytes are asked for: a
`RecordedFile` takes the place of a path in `Video.frames` and `Video.masks`.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from cffm_jax.data.image_files import FileName, UnreadableFile, read_bytes
from cffm_jax.data.layouts.layout import Fault, Layout, stop
from cffm_jax.data.layouts.video import Coding, Video
from cffm_jax.errors import InputError
from cffm_jax.runtime.checksums import Manifest, digest_of_file

INDEX = "videos.json"
FORMAT = 1
"""Version of the index and the records; it rises when either changes its meaning."""
FRAME, FRAME_NAME, MASKS, MASK_NAME = "frame", "frame_name", "masks", "mask_name"
"""Features of a record: the frame's file and name, its mask's file (or none) and name (or "")."""
_PREPARE = "prepare the dataset again (python -m cffm_jax.data.prepare)"
_OPENING = threading.Lock()
_AGAIN = "copy the folder again, or prepare it again"


class RecordedFile(NamedTuple):
    """A file in a record.

    Its path ``<root>/<split>[<record>]:<file>`` is for messages and the name; nothing lies there.

    Attributes:
      root: the folder of records.
      split: of the record.
      record: number in the split.
      file: name of the file, relative to the folder that was prepared.
    """

    root: str
    split: str
    record: int
    file: str

    def __str__(self) -> str:
        return f"{os.path.join(self.root, self.split)}[{self.record}]:{self.file}"

    def __fspath__(self) -> str:
        return str(self)


# --- the index


def digest(tree: Mapping[str, Any]) -> str:
    """sha256 of the index, without the checksum itself."""
    kept = {key: value for key, value in tree.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


_Row = tuple[str, list[int], list[int], int, list[int]]
"""A video in the index: name, records of its frames, which of these have masks, coding, numbers."""


def rows(videos: Iterable[Video], record_of: Mapping[FileName, int], codings: list[Coding]) -> list[_Row]:
    """Videos as the index holds them; codings that are new are added."""
    rows = []
    for video in videos:
        if video.coding not in codings:
            codings.append(video.coding)
        targets = [i for i, mask in enumerate(video.masks) if mask is not None]
        records = [record_of[frame] for frame in video.frames]
        rows.append((video.name, records, targets, codings.index(video.coding), list(video.numbers)))
    return rows


def read_index(root: str) -> dict[str, Any]:
    """The index of a prepared folder, after a look at all its files; no record is opened.

    Raises:
      InputError: the index is missing, damaged or another version's, or a file missing or changed.
    """
    path = os.path.join(root, INDEX)
    try:
        stamp = os.stat(path)
    except OSError as error:
        inside = sorted(glob.glob(os.path.join(glob.escape(str(root)), "*", "*", INDEX)))
        remedy = f"point --data.root to {os.path.dirname(inside[0])}" if inside else "name a folder that prepare wrote"
        raise InputError(path, f"cannot be read ({error.strerror})", remedy) from error
    index = _parsed(path, stamp.st_mtime_ns, stamp.st_size)
    for name, size in index["sizes"].items():
        file = os.path.join(root, name)
        try:
            there, known = os.stat(file).st_size, index["digests"].get(name)
            changed = there == size and known is not None and digest_of_file(file).hex() != known
        except OSError as error:
            raise InputError(file, f"cannot be read ({error.strerror})", _AGAIN) from error
        if there != size:
            raise InputError(file, f"has {there} bytes, not the {size} that were written", _AGAIN)
        if changed:
            raise InputError(file, "is not what was written (other sha256)", _AGAIN)
    return index


# Commands ask for several splits and for the layout; VSPW's index has 30 MB.
@functools.lru_cache(maxsize=1)
def _parsed(path: str, changed: int, size: int) -> dict[str, Any]:
    del changed, size  # Part of the cache's key.
    try:
        with open(path, encoding="utf-8") as file:
            index = json.load(file)
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", _AGAIN) from error
    except (ValueError, RecursionError) as error:
        raise InputError(path, "is damaged (no JSON)", _AGAIN) from error
    if not isinstance(index, dict) or "format" not in index or "sha256" not in index:
        raise InputError(path, "is no index of records", _PREPARE)
    if index["format"] != FORMAT:
        problem = f"has the format {index['format']}, this version of cffm_jax reads {FORMAT}"
        raise InputError(path, problem, _PREPARE)
    if index["sha256"] != digest(index):
        raise InputError(path, "is damaged (other sha256)", _AGAIN)
    return index


def _video(
    root: str, split: str, files: Sequence[tuple[str, str]], row: _Row, codings: Sequence[Coding], masks: bool
) -> Video:
    """The video of a row of the index, see `rows`."""
    name, records, targets, coding, numbers = row
    frames = tuple(RecordedFile(root, split, record, files[record][0]) for record in records)
    if not masks:
        return Video(name, frames, (), codings[coding], tuple(numbers))
    with_mask = set(targets)
    labels = (RecordedFile(root, split, r, files[r][1]) if i in with_mask else None for i, r in enumerate(records))
    return Video(name, frames, tuple(labels), codings[coding], tuple(numbers))


class Records(Layout):
    """A dataset that `prepare` wrote."""

    name = "records"
    split_files = False
    checksummed = True

    def splits(self, root: str, *, empty: bool = False) -> tuple[str, ...]:
        """Names of all splits. InputError as for `read_index`."""
        return tuple(read_index(root)["splits"])

    def source(self, root: str) -> str:
        """Name of the layout of the folder that was prepared. InputError as for `read_index`."""
        return read_index(root)["layout"]

    def place(self, root: str, split: str, video: Video) -> str:
        """Split and name: a video has no folder."""
        return f"{split}: {video.name}"

    def videos(self, root: str, split: str, masks: bool, fault: Fault = stop) -> tuple[Video, ...]:
        """The videos of a split, the same as of the folder that was prepared; see `Layout.videos`.

        Raises:
          InputError: the split is missing or has no masks, or the folder is incomplete or damaged.
        """
        index = read_index(root)
        path = os.path.join(root, INDEX)
        if split not in index["splits"]:
            there = ", ".join(index["splits"])
            raise InputError(path, f"has no split {split!r}, but {there}", "name one of these, or prepare it too")
        stored = index["splits"][split]
        labelled, every, files = stored["labelled"], stored["every"], stored["files"]
        if masks and labelled is None:
            problem = f"split {split!r} was prepared without masks"
            raise InputError(path, problem, "add them and prepare the dataset again")
        codings = [Coding(bytes.fromhex(table), says) for table, says in index["codings"]]
        # Without masks a split may have other videos: those that have none, or snippets that no
        # mask cuts out.
        chosen = labelled if masks or every is None else every
        return tuple(_video(root, split, files, row, codings, masks) for row in chosen)


LAYOUT = Records()


# --- the records


def read_all(names: Sequence[FileName], manifest: Manifest | None = None) -> list[bytes]:
    """The bytes of files, on disk or in records; a record is read once, all of a split in one call.

    Args:
      names: paths, or `RecordedFile`s.
      manifest: what files on disk must be; records' own checksums are always compared.

    Raises:
      UnreadableFile: one of them cannot be had; see `image_files.read_bytes`.
    """
    wanted: dict[tuple[str, str], dict[int, str]] = {}
    for name in names:
        if isinstance(name, RecordedFile):
            wanted.setdefault((name.root, name.split), {}).setdefault(name.record, name.file)
    read = {where: dict(zip(files, _read(*where, files))) for where, files in wanted.items()}

    def of(name: FileName) -> bytes:
        if not isinstance(name, RecordedFile):
            return read_bytes(name, manifest)
        return _file_in(read[name.root, name.split][name.record], name)

    return [of(name) for name in names]


def read_one(name: FileName, manifest: Manifest | None = None) -> bytes:
    """The bytes of a file, as `read_all`."""
    return read_all([name], manifest)[0]


def file_size(name: FileName) -> int:
    """Size of a file in bytes; a record is read for it. Raises: OSError, or as `read_all`."""
    return len(read_one(name)) if isinstance(name, RecordedFile) else os.path.getsize(name)


def _read(root: str, split: str, files: Mapping[int, str]) -> list[dict[str, Any]]:
    """Records by their numbers, with the name of a file in each for what there is to say of it."""
    source = _source(root, split)
    try:
        return source.__getitems__(list(files))
    except RuntimeError as error:
        if len(files) > 1:  # One of them: which one?
            return [_read(root, split, {record: file})[0] for record, file in files.items()]
        ((record, file),) = files.items()
        # What array_record says goes on with checksums and places.
        reason = re.split(r" \(|;", str(error))[0].strip()
        shard, position = _shard(source, split, record)
        raise UnreadableFile(shard, f"record {position} ({file}) cannot be read ({reason})", _AGAIN) from error


def _shard(source: Any, split: str, record: int) -> tuple[str, int]:
    """File of a record, and its number in it."""
    for shard in source.dataset_info.splits[split].file_instructions:
        if record < shard.take:
            return shard.filename, record
        record -= shard.take
    raise IndexError(record)


def _file_in(example: dict[str, Any], name: RecordedFile) -> bytes:
    """The file of this name in a record; UnreadableFile where it holds another."""
    file = name.file.encode()
    if example[FRAME_NAME] == file:
        return example[FRAME]
    if example[MASK_NAME] == file:
        return example[MASKS][0]
    raise UnreadableFile(name, f"the record holds other files than {INDEX} says", _AGAIN)


def _source(root: str, split: str) -> Any:
    """The records of a split, opened once a process and so no part of what workers receive."""
    # TFDS imports its parts when they are used, and threads that do so at once can wait for each
    # other for ever.
    with _OPENING:
        return _opened(root, split)


@functools.cache
def _opened(root: str, split: str) -> Any:
    # Only those who read records pay for TFDS.
    import tensorflow_datasets as tfds

    class Stored(tfds.decode.SkipDecoding):
        """Of a sequence too, which TFDS 4.9.10 leaves out without TensorFlow."""

        def decode_batch_example_np(self, serialized_example: Any) -> Any:
            return serialized_example

    try:
        builder = tfds.builder_from_directory(root)
    except OSError as error:
        raise InputError(root, f"cannot be read ({error})", _AGAIN) from error
    decoders = {FRAME: tfds.decode.SkipDecoding(), MASKS: Stored()}
    return builder.as_data_source(split, decoders=decoders)  # pyrefly: ignore[bad-argument-type]  # wrapt hides self
