"""Writes a stream of masks (indexed PNGs or an .npz) and the classes' shares in a whole folder."""

from __future__ import annotations

import array
import contextlib
import csv
import gzip
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from cffm_jax.config import IGNORED_LABEL
from cffm_jax.errors import InputError
from cffm_jax.inference.prediction import Prediction
from cffm_jax.media.frame import Frame
from cffm_jax.media.many import ABOUT, fixed_part
from cffm_jax.media.source import STDIN, has_magic
from cffm_jax.runtime.atomic import WholeFolder

MASKS, ARCHIVE, SHARES = "masks", "masks.npz", "shares.csv"
SCORES, LOGITS = "scores", "logits"
_FOLDERS = {MASKS: ".png", SCORES: ".png", LOGITS: ".npz"}
"""Folders of a file a frame, and what their names end with."""
OVERLAYS = ("overlay.mp4", "overlay.png")
_OURS = {ARCHIVE, SHARES, ABOUT, *OVERLAYS, *_FOLDERS}


class Writer(Protocol):
    """Takes frames with what the network says of them; its file is complete after ``finish``, which
    is not called on an error.

    ``close`` comes in any case, last, and only lets go of what is open.
    """

    def write(self, frame: Frame, prediction: Prediction) -> None: ...

    def finish(self) -> None: ...

    def close(self) -> None: ...


class OutputFolder(WholeFolder):
    """The folder of a prediction: made whole, and in the place of an older prediction alone."""

    def __init__(self, folder: str | Path, overwrite: bool = False):
        """
        Raises:
          InputError: it is there and not empty, and may not be replaced: without ``overwrite``, or
            if it holds anything that is not of `predict`.
        """
        super().__init__(folder, overwrite=overwrite, remedy="name another folder with --output, or make room")
        with self.writing():
            self._require_free(overwrite)

    def _require_free(self, overwrite: bool) -> None:
        if not os.path.lexists(self.folder):
            return
        if not self.folder.is_dir():
            raise InputError(self.folder, "is there already and no folder", "name another with --output")
        names = set(os.listdir(self.folder))
        if names and not overwrite:
            raise InputError(self.folder, "is there already", "give --overwrite, or name another with --output")
        foreign = sorted(names - _OURS) if ABOUT in names else sorted(names)
        for folder in () if foreign else names & _FOLDERS.keys():
            files = os.listdir(self.folder / folder)
            foreign += [f"{folder}/{name}" for name in files if not name.endswith(_FOLDERS[folder])]
        if foreign:
            problem = f"holds {foreign[0]}, which is not of predict.py"
            raise InputError(self.folder, problem, "it is not replaced: name another with --output")

    def describe(self, about: dict[str, Any]) -> None:
        """Writes what the folder holds, and marks it as one that may be replaced."""
        (self.partial / ABOUT).write_text(json.dumps(about, indent=2) + "\n")


def default_output(inputs: Sequence[str]) -> str:
    """``<input>_prediction`` beside the input; of what is no file in the current folder."""
    name = inputs[0]
    if name == STDIN:
        return "stdin_prediction"
    if not os.path.lexists(name):  # A camera's index, or a pattern, whose folder is named.
        return f"{(fixed_part(name) or 'images') if has_magic(name) else f'camera{name}'}_prediction"
    name = os.path.abspath(name)
    if len(inputs) > 1:
        return f"{os.path.dirname(name)}_prediction"
    return f"{name if os.path.isdir(name) else os.path.splitext(name)[0]}_prediction"


class FrameFiles:
    """A folder with a file for each frame, which is whole once it is written."""

    kind: str

    def __init__(self, folder: Path):
        self._folder = folder / self.kind
        self._folder.mkdir()

    def path(self, frame: Frame) -> Path:
        return self._folder / f"{frame.name}{_FOLDERS[self.kind]}"

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass


class MaskImages(FrameFiles):
    """``masks/<frame>.png``: palette images of the class indices, 255 where none was asked for."""

    kind = MASKS

    def __init__(self, folder: Path, colours: np.ndarray):
        """``colours`` u8[256,3]."""
        super().__init__(folder)
        self._palette = colours.tobytes()

    def write(self, frame: Frame, prediction: Prediction) -> None:
        image = Image.fromarray(prediction.mask)
        image.putpalette(self._palette)
        image.save(self.path(frame))


class ScoreImages(FrameFiles):
    """``scores/<frame>.png``: 16-bit grey images of the masks' probabilities, 65535 for 1."""

    kind = SCORES

    def write(self, frame: Frame, prediction: Prediction) -> None:
        values = np.round(np.asarray(prediction.scores, np.float64) * 65535).astype(np.uint16)
        Image.fromarray(values).save(self.path(frame))


class LogitArchives(FrameFiles):
    """``logits/<frame>.npz``: logits f32[h,w,K] as the network gives them, names [K], and the sizes
    that they are resized to, one after the other: input_size (H, W) and size (H0, W0)."""

    kind = LOGITS

    def __init__(self, folder: Path, names: Sequence[str], input_size: Callable[[], tuple[int, int]]):
        """``input_size``: that of the present frame."""
        super().__init__(folder)
        self._names, self._input_size = np.array(names), input_size

    def write(self, frame: Frame, prediction: Prediction) -> None:
        sizes = {"input_size": self._input_size(), "size": prediction.mask.shape}
        assert prediction.logits is not None
        arrays = {"logits": prediction.logits, "names": self._names, **sizes}
        np.savez(self.path(frame), **arrays)


class MaskArchive:
    """masks.npz: masks u8[N,H,W], numbers i64[N], times f64[N] (s), names [K], colours u8[256,3].

    The header states N, known only at the end: until then masks lie compressed in a file beside.
    """

    def __init__(self, folder: Path, names: Sequence[str], colours: np.ndarray):
        self._path, self._spool = folder / ARCHIVE, folder / f"{MASKS}.gz"
        self._fixed = {"names": np.array(names), "colours": colours}
        self._numbers, self._times = array.array("q"), array.array("d")
        self._size = (0, 0)
        self._file = gzip.open(self._spool, "wb", compresslevel=1)

    def write(self, frame: Frame, prediction: Prediction) -> None:
        self._file.write(np.ascontiguousarray(prediction.mask).data)
        self._size = prediction.mask.shape
        self._numbers.append(frame.number)
        self._times.append(float(frame.time))

    def finish(self) -> None:
        self._file.close()
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(self._times), *self._size)}
        with zipfile.ZipFile(self._path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            with gzip.open(self._spool) as masks, archive.open("masks.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array_header_1_0(file, header)
                shutil.copyfileobj(masks, file, 2**20)
            arrays = {"numbers": np.array(self._numbers), "times": np.array(self._times), **self._fixed}
            for name, values in arrays.items():
                with archive.open(f"{name}.npy", "w") as file:
                    np.lib.format.write_array(file, values, allow_pickle=False)
        self._spool.unlink()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # What is buffered may not fit; the error was reported where it came up.
            self._file.close()


class ClassShares:
    """``shares.csv``: a row for each frame, of which share of its pixels each class has."""

    def __init__(self, folder: Path, names: Sequence[str], classes: Sequence[int]):
        """``classes``: the columns, indices into the names."""
        self._classes = list(classes)
        # A frame has its file's name, to the byte, which may be no text.
        self._file = open(folder / SHARES, "w", newline="", encoding="utf-8", errors="surrogateescape")
        self._rows = csv.writer(self._file, lineterminator="\n")
        self._rows.writerow(["frame", "seconds", *(names[k] for k in classes)])

    def write(self, frame: Frame, prediction: Prediction) -> None:
        mask = prediction.mask
        shares = np.bincount(mask.reshape(-1), minlength=IGNORED_LABEL + 1)[self._classes] / mask.size
        self._rows.writerow([frame.name, f"{float(frame.time):.6f}", *(f"{share:.6f}" for share in shares)])

    def finish(self) -> None:
        self._file.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # As above.
            self._file.close()
