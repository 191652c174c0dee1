"""Reads a whole dataset and lists everything that is wrong with it at once.

    python -m cffm_jax.data.check data/VSPW_480p
    python -m cffm_jax.data.check data/VSPW_480p --fix-splits --manifest --json report.json
    python -m cffm_jax.data.check data/cityscapes --layout cityscapes

Exit status 0: nothing is wrong; 1: something is; 2: the command cannot do what it was told. Needs
neither a model nor JAX.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from cffm_jax.channels import RGB, Channels
from cffm_jax.config import IGNORED_LABEL, DataConfig, LayoutName, require_channels
from cffm_jax.data.check.class_weights import class_weights
from cffm_jax.data.check.report import as_text, to_json
from cffm_jax.data.check.survey import Survey, VideoFound, survey
from cffm_jax.data.layouts.listing import MANIFEST, Problem
from cffm_jax.data.layouts.read import find_splits, layout_of
from cffm_jax.errors import InputError
from cffm_jax.rules import require_values, required, setting
from cffm_jax.runtime import checksums
from cffm_jax.runtime.atomic import write_text
from cffm_jax.runtime.command_line import parse_command


@dataclasses.dataclass(frozen=True)
class Command:
    root: tyro.conf.Positional[str] = required(path=True)
    """Dataset folder."""
    layout: LayoutName = DataConfig.layout
    """How it is laid out; see docs/your_data.md."""
    splits: tuple[str, ...] = ()
    """Split files, without .txt, or folders; default: those of train, val and test that are there,
    or all records."""
    unlabelled: tuple[str, ...] = ("test",)
    """Splits whose videos need no masks."""
    num_classes: int = setting(0, least=0, below=IGNORED_LABEL)
    """Number of classes; 0: as many as the dataset's class file names; without one 124 for VSPW, 19
    for Cityscapes, and as many as there are for one's own."""
    min_frames: int = setting(max(DataConfig.offsets) + 1, least=1)
    """A video with fewer frames is a problem; by default those without a target that has all its
    references."""
    offsets: tuple[int, ...] = DataConfig.offsets
    """How far from its target each reference lies; in Cityscapes a target without one of them is a
    problem."""
    rows: int = setting(50, least=0)
    """Rows printed of each group of problems; 0: all. The JSON holds all."""
    json: str = setting("", path=True)
    """Write everything to this file; -: to standard output, in place of the table."""
    class_weights: Literal["none", "median", "log"] = "none"
    """Print --loss.class-weights for train.py by how often the classes occur in the training split
    (where it is not among the splits, in all of them): the median of their shares over a class's
    own, or 1 / ln(1.02 + share)."""
    channels: tuple[str, ...] = RGB
    """Names of the frames' channels, in the order of the files; other than red green blue they are
    read as they are stored."""
    statistics: bool = False
    """Print --data.channels, --data.mean and --data.std for train.py, over the finite values of the
    training split; where it is not among the splits, of all of them."""
    fix_splits: bool = False
    """Write the split files anew without the videos that have a problem, and keep the old ones as
    <split>.txt.bak."""
    manifest: bool = False
    """Write the files' checksums to <root>/manifest.sha256, for sha256sum -c and --data.verify."""
    check_manifest: bool = False
    """Compare all files with <root>/manifest.sha256."""
    threads: int = setting(min(16, os.cpu_count() or 1), least=1)
    """Videos read at the same time; the result does not depend on it."""


def main(argv: Sequence[str]) -> int:
    """Reads a whole dataset and lists everything that is wrong with it."""
    options = parse_command(Command, argv, lambda _: Command(root=tyro.MISSING), main.__doc__)
    splits = _checked(options)
    manifest = checksums.read_manifest(options.root) if options.check_manifest else None
    result = survey(
        options.root,
        splits,
        layout=options.layout,
        unlabelled=options.unlabelled,
        num_classes=options.num_classes,
        min_frames=options.min_frames,
        offsets=options.offsets,
        threads=options.threads,
        channels=Channels(options.channels, (), ()),
        moments=options.statistics,
    )
    known = {name: checksum for video in result.videos.values() for name, checksum in video.digests.items()}
    if manifest is not None:
        result = dataclasses.replace(
            result, problems=(*_differences(manifest, result.videos.values(), known, options.threads), *result.problems)
        )
    left_out = fix_splits(result) if options.fix_splits and result.problems else {}
    report = to_json(result, left_out)
    if options.json == "-":
        print(json.dumps(report, indent=1))
    else:
        print(as_text(result, report, options.rows))
        if options.class_weights != "none":
            over, videos = _training_videos(result)
            pixels = sum((video.pixels for video in videos), np.zeros(256, np.int64))[: len(result.names)]
            weights = class_weights(pixels.tolist(), options.class_weights)
            print(f"over {over}: --loss.class-weights", *(f"{weight:.4g}" for weight in weights))
        if options.statistics:
            print(_statistics(result, options.channels))
        if options.json:
            write_text(options.json, json.dumps(report, indent=1) + "\n", "name a file that can be written")
    if options.manifest:
        # After the split files, which it holds too.
        checksums.write_manifest(options.root, checksums.measure(options.root, known, options.threads))
    return 1 if result.problems else 0


def _training_videos(result: Survey) -> tuple[str, list[VideoFound]]:
    """The training split and its videos; where it was not read, all splits and theirs."""
    split = DataConfig.train_split
    names = result.splits.get(split, tuple(result.videos))
    return split if split in result.splits else ", ".join(result.splits), [result.videos[name] for name in names]


def _statistics(result: Survey, names: Sequence[str]) -> str:
    """What they were measured on, and the options that state the channels. InputError: none of
    their values is finite."""
    over, videos = _training_videos(result)
    count, total, squares = sum((video.moments for video in videos), np.zeros((3, len(names))))
    if not count.any():
        raise InputError("--statistics", "no frame could be read", "see the problems above")
    if not count.all():
        problem = f"{names[int(count.argmin())]} has no finite value in any frame"
        raise InputError("--statistics", problem, "leave this channel out")
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    if not std.all():
        problem = f"{names[int(std.argmin())]} has the same value everywhere"
        raise InputError("--statistics", problem, "save the frames without this channel")
    rows = ("channels", names), ("mean", map("{:.6g}".format, mean)), ("std", map("{:.6g}".format, std))
    return f"over {over}: " + " ".join(f"--data.{name} {' '.join(values)}" for name, values in rows)


def _checked(options: Command) -> tuple[str, ...]:
    """Splits to check. InputError for options that cannot be followed, before a file is read."""
    require_values(options)
    require_channels("--channels", options.channels)
    layout = layout_of(options.layout)
    there = () if options.splits else find_splits(options.root, layout, empty=True)
    splits = tuple(dict.fromkeys(options.splits)) or there
    if layout.checksummed and (options.manifest or options.check_manifest):
        problem = "records carry checksums of their own, which reading them compares"
        raise InputError("--manifest, --check-manifest", problem, "leave it out")
    if options.manifest and os.path.exists(os.path.join(options.root, checksums.NAME)):
        path = os.path.join(options.root, checksums.NAME)
        raise InputError(path, "is there already", "check it with --check-manifest, or remove it first")
    if options.fix_splits:
        if not layout.split_files:
            problem = f"the layout {layout.name} has no split files"
            raise InputError("--fix-splits", problem, "remove or repair the files that are named")
        for split in splits:
            _require_no_backup(options.root, split)
    path = Path(options.json)
    if options.json not in ("", "-") and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise InputError(path, "is a folder or in none that exists", "name a file in a folder that is there")
    return splits


def _require_no_backup(root: str, split: str) -> None:
    backup = os.path.join(root, f"{split}.txt.bak")
    if os.path.lexists(backup):
        raise InputError(backup, "is there already and would be lost", "move it elsewhere before --fix-splits")


def _differences(
    manifest: checksums.Manifest, videos: Iterable[VideoFound], known: Mapping[str, bytes], threads: int
) -> list[Problem]:
    changed, missing, extra = checksums.compare(manifest, checksums.measure(manifest.root, known, threads))
    again = "copy or download the file again"
    places = {video.place: video.name for video in videos}

    def of(name: str, problem: str) -> Problem:
        # Below <place>/frames and <place>/masks, whatever these two are called.
        place = "/".join(name.split("/")[:-2])
        return Problem(MANIFEST, name, problem, again, places.get(place, ""))

    return [
        *(of(name, f"has changed since {checksums.NAME} was written") for name in changed),
        *(of(name, f"is in {checksums.NAME} but not there") for name in missing),
        *(
            Problem(MANIFEST, name, f"is not in {checksums.NAME}", "remove it, or write the manifest anew")
            for name in extra
        ),
    ]


def fix_splits(result: Survey) -> dict[str, tuple[str, ...]]:
    """Writes the split files anew without the videos that have a problem: all of them, or none.

    Returns:
      Split -> names that it lost, its old file in `<split>.txt.bak`; splits that lose nothing stay.

    Raises:
      InputError: a backup is there, a split would lose all videos, or a file cannot be written.
    """
    left_out = {}
    for split, names in result.splits.items():
        kept = result.good(split)
        if len(kept) == len(names):
            continue
        path = os.path.join(result.root, f"{split}.txt")
        _require_no_backup(result.root, split)
        if not kept:
            raise InputError(path, "would lose all its videos", "repair the dataset first")
        left_out[split] = tuple(name for name in names if name not in set(kept))
    done: list[Path] = []
    partials = {split: Path(result.root, f".{split}.txt.partial") for split in left_out}
    try:
        for split, partial in partials.items():
            partial.write_text("".join(f"{name}\n" for name in result.good(split)), encoding="utf-8")
        for split in left_out:
            path = Path(result.root, f"{split}.txt")
            done.append(path)
            shutil.copy2(path, f"{path}.bak")
        for path, partial in zip(done, partials.values(), strict=True):
            partial.replace(path)
    except BaseException as error:
        for path in done:
            with contextlib.suppress(FileNotFoundError):
                Path(f"{path}.bak").replace(path)
        for partial in partials.values():
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            problem = f"cannot be written ({error.strerror})"
            raise InputError(result.root, problem, "make the folder writable") from error
        raise
    return left_out
