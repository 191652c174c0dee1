"""Writes a dataset as records, for file systems that do not like very many small files.

    python -m cffm_jax.data.prepare data/VSPW_480p data/records python train.py --config
    configs/b1_vspw.py --data.layout records --data.root data/records/vspw/1.0.0

The records hold the files' bytes; training reads the same batches from them, to the byte. What is
in the images is not looked at but for palettes that contradict each other: that is for
cffm_jax.data.check. Needs neither a model nor JAX.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from cffm_jax.config import LayoutName
from cffm_jax.data.labels.label_sample import require_splits_agree
from cffm_jax.data.layouts.names import passed_over_in_words
from cffm_jax.data.layouts.read import find_splits, layout_of, layouts_with
from cffm_jax.data.layouts.records import INDEX
from cffm_jax.errors import InputError
from cffm_jax.rules import require_values, required, setting
from cffm_jax.runtime.atomic import lock_on, swap
from cffm_jax.runtime.checksums import read_manifest
from cffm_jax.runtime.command_line import parse_command
from cffm_jax.runtime.progress import Progress

if TYPE_CHECKING:
    from cffm_jax.data.prepare import builders

    _Suited = LayoutName
else:
    _Suited = Literal[layouts_with(lambda layout: layout.prepared.name)]


@dataclasses.dataclass(frozen=True)
class Command:
    root: tyro.conf.Positional[str] = required(path=True)
    """Dataset folder."""
    output: tyro.conf.Positional[str] = required(path=True)
    """Folder of prepared datasets; this one goes to <output>/<dataset>/<version>, as TFDS has
    it."""
    layout: _Suited = "vspw"
    """How the dataset folder is laid out, as --data.layout."""
    splits: tuple[str, ...] = ()
    """Splits to write; default: those of train, val and test that are there and not empty."""
    unlabelled: tuple[str, ...] = ("test",)
    """Splits that are written without masks where these are not complete."""
    verify: bool = False
    """Compare every file's sha256 with <root>/manifest.sha256 when reading."""
    overwrite: bool = False
    """Replace what was prepared there before."""
    threads: int = setting(8, least=1)
    """Files read at the same time; the result does not depend on it."""


def main(argv: Sequence[str]) -> None:
    """Writes a dataset as records: the bytes of every frame and mask, in a few large files."""
    default = Command(root=tyro.MISSING, output=tyro.MISSING)
    options = parse_command(Command, argv, lambda _: default, main.__doc__)
    splits = _checked(options)
    # TFDS takes its time to be imported.
    from cffm_jax.data.prepare import builders

    layout = layout_of(options.layout)
    folder = Path(options.output, layout.prepared.name, str(builders.Frames.VERSION))
    _require_free(folder, options.overwrite)
    manifest = read_manifest(options.root) if options.verify else None
    plans = {split: builders.plan(options.root, split, layout, split in options.unlabelled) for split in splits}
    if manifest is not None:
        frames = [frame for each in plans.values() for frame in each.frames]
        manifest.require(file for frame in frames for file in (frame.frame, frame.mask) if file)
    labelled = [video for each in plans.values() for video in each.labelled or ()]
    require_splits_agree(options.root, options.layout, splits, labelled)
    for split, each in plans.items():
        print(f"{split}: {_counts(each)}" + (f", without masks ({each.unlabelled})" if each.unlabelled else ""))
        others = dict.fromkeys(path for video in (*(each.labelled or ()), *each.every) for path in video.passed_over)
        if others:
            print(f"{split}: {passed_over_in_words([*others])}")
    try:
        with _parents(folder, sum(each.size for each in plans.values())), lock_on(folder), _bar(plans) as bar:
            _require_free(folder, options.overwrite)  # As it is now: another process may have made it.
            more = {"written": bar.update, "manifest": manifest, "threads": options.threads}
            make = functools.partial(builders.Frames, layout, options.root, plans, file_format="array_record", **more)
            _write(lambda made: make(data_dir=made), folder)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(folder, f"cannot be written ({reason})", "name a folder that can be written") from error
    files = [path.stat().st_size for path in folder.iterdir()]
    frames = sum(len(each.frames) for each in plans.values())
    print(f"{folder}: written ({frames} frames, {_megabytes(sum(files))} in {len(files)} files). To train:")
    classes = "" if layout.class_names else " --model.num-classes K"
    config = layout.prepared.config
    encoder = " --init.encoder FILE"  # The configs of datasets ask for one.
    print(f"  python train.py --config {config} --data.layout records --data.root {folder}{classes}{encoder}")


def _checked(options: Command) -> tuple[str, ...]:
    """Splits to write. InputError for options that cannot be followed, before a file is read."""
    require_values(options)
    for split in options.splits:
        # TFDS reads more into other names: "train[:10%]", "all".
        if not re.fullmatch(r"[A-Za-z]\w*", split, re.ASCII) or split == "all":
            raise InputError("--splits", f"{split!r} cannot be the name of a split of TFDS", "use letters and digits")
    # The built-in data has an empty file for a split without videos.
    there = () if options.splits and os.path.isdir(options.root) else find_splits(options.root, options.layout)
    return tuple(dict.fromkeys(options.splits)) or there


def _require_free(folder: Path, overwrite: bool) -> None:
    """InputError for a folder that is there and shall or must not be replaced."""
    if not folder.exists():
        return
    if not overwrite:
        raise InputError(folder, "is there already", "name another folder, or add --overwrite")
    if not (folder / INDEX).is_file():
        raise InputError(folder, "is there, but this command did not write it", "name another folder, or remove it")


@contextlib.contextmanager
def _parents(folder: Path, size: int) -> Iterator[None]:
    """Makes the folders above one of so many bytes; if the work fails, those that are new and empty
    go again."""
    new = [path for path in folder.parents if not path.exists()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        _require_space(folder.parent, size)
        yield
    except BaseException:
        for path in new:
            with contextlib.suppress(OSError):  # Something lies in it.
                path.rmdir()
        raise


def _require_space(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        problem = f"has {_megabytes(free)} free, the dataset needs {_megabytes(size)}"
        raise InputError(folder, problem, "name a folder on another disk")


def _write(make: Callable[[Path], builders.Frames], folder: Path) -> None:
    """Lets a builder write beside the folder, then replaces it: there is never half of it.

    What a killed run left behind goes first.
    """
    staging = folder.parent / f".{folder.name}.preparing"
    _remove(staging)
    try:
        # TFDS prints of a download.
        with contextlib.redirect_stdout(io.StringIO()):
            builder = make(staging)
            builder.download_and_prepare()
        swap(Path(builder.data_dir), folder)
    except RuntimeError as error:
        # array_record's, with a long tail.
        reason = re.split(r" \(|;", str(error))[0].strip()
        raise InputError(folder, f"cannot be written ({reason})", "look at the disk's space and its quota") from error
    finally:
        _remove(staging)


def _remove(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


def _bar(plans: Mapping[str, builders.Plan]) -> Progress:
    """Progress in bytes, with rate and time left."""
    total = sum(each.size for each in plans.values())
    return Progress(total=total, desc="prepare", unit="B", unit_scale=True, unit_divisor=1024, dynamic_ncols=True)


def _counts(each: builders.Plan) -> str:
    videos = each.every if each.labelled is None else each.labelled
    masks = sum(frame.mask is not None for frame in each.frames)
    return f"{len(videos)} videos, {len(each.frames)} frames, {masks} masks, {_megabytes(each.size)}"


def _megabytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
