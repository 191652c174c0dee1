"""Files of weights, read without torch and without running anything that a file holds.

The format is told by the content: torch's two, safetensors (whole or in shards, a file or a
folder), npz. A file is first described (``open_weights``); arrays are read one at a time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cffm_jax.errors import InputError
from cffm_jax.runtime.checksums import digest, digest_of_file
from cffm_jax.weights.files import array_files, detect, torch_files, unwrap, zip_guard
from cffm_jax.weights.files.stored_array import (
    MAX_BYTES,
    REMEDY,
    BinaryFile,
    CutOff,
    Longer,
    StoredArray,
    is_numeric,
    printable,
    reading,
)
from cffm_jax.weights.files.torch_files import TorchFile
from cffm_jax.weights.files.torch_tensors import Tensor
from cffm_jax.weights.files.unpickle import Pairs
from cffm_jax.weights.files.weight_file import Choice, WeightFile

FOLDER_FILES = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip
"""Files that Hugging Face's ``save_pretrained`` writes, in the order in which it is looked for."""

MAX_SHARDS = 256
"""All are kept open, and a process may usually open 1,024 files."""

MAX_JSON = 16 << 20
"""Bytes of an index or a configuration: 100,000 long names."""

MAX_KEY = 512
"""Characters of a key; the longest of this family has some eighty."""


@contextlib.contextmanager
def open_weights(path: str | Path) -> Iterator[WeightFile]:
    """Describes the state dict of a file, or a folder as ``save_pretrained`` writes it, reading no
    arrays. Unwraps checkpoints with weights as ``state_dict``, ``model`` or the like beside others.

    Raises:
      InputError: it is missing, damaged, of another format, beyond the limits of size, or holds no
        state dict of arrays of numbers.
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        with reading(path):
            described = _describe(path, stack)
        yield described


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Arrays by key of a file or folder, as ``open_weights`` describes them.

    Raises:
      InputError: as ``open_weights``, or an array is damaged.
    """
    with open_weights(path) as weights:
        return {key: array.load() for key, array in weights.arrays.items()}


def read_array(path: str | Path) -> np.ndarray:
    """The one array of a file: a tensor saved by itself, or alone in a dictionary.

    Raises:
      InputError: as ``read_state_dict``, or the file holds none or several.
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        with reading(path):
            array = single_array(_contents(_open(path, stack), path.stat().st_size, path), path)
        return array.load()


def single_array(contents: TorchFile | array_files.ArrayFile, where: object) -> StoredArray:
    """The one array of an open file, as ``read_array``."""
    if isinstance(contents, TorchFile):
        value = contents.value
        tensors = [value] if isinstance(value, Tensor) else []
        if isinstance(value, Pairs):
            tensors = [item for _, item in value.items if isinstance(item, Tensor)]
        arrays = {str(i): contents.array(tensor) for i, tensor in enumerate(tensors)}
    else:
        arrays = contents.arrays
    if len(arrays) != 1:
        raise InputError(where, "holds no array, or several", "give a file with one array")
    _check_arrays(arrays, where)
    return next(iter(arrays.values()))


def read_torch(file: BinaryFile, size: int, where: object) -> TorchFile:
    """Reads the contents of an open file of torch.

    Raises:
      InputError: it is of another format; other errors as of ``torch_files``.
    """
    kind = detect.recognise(file, size, where)
    if kind == "torch (legacy)":
        return torch_files.read_legacy(file, size, where)
    contents = torch_files.read_zip(zip_guard.open_zip(file, size), where) if kind == "zip" else None
    if contents is None:
        raise InputError(where, "is no file of torch", "give one that torch.save wrote")
    return contents


def file_digest(files: Sequence[str | Path]) -> str:
    """SHA-256 of a file in hexadecimal; of several, that of their digests in order.

    Raises:
      InputError: a file cannot be read.
    """
    digests = []
    for path in files:
        with reading(path):
            digests.append(digest_of_file(path).hex())
    return digests[0] if len(digests) == 1 else digest("".join(digests).encode()).hex()


def shard_names(index: str | Path) -> list[str]:
    """The files beside an index of shards that it names.

    Raises:
      InputError: it is none, or names what is no file beside it.
    """
    with reading(index):
        return sorted(set(_places(Path(index)).values()))


# --- files and folders ----------------------------------------------------------------------------


def _describe(path: Path, stack: contextlib.ExitStack) -> WeightFile:
    if path.is_dir():
        file = next((path / name for name in FOLDER_FILES if (path / name).is_file()), None)
        if file is None:
            problem = f"is a folder without {' or '.join(FOLDER_FILES)}"
            raise InputError(path, problem, "name the file with the weights")
        with reading(file):
            described = _describe(file, stack)
        return dataclasses.replace(described, path=path)
    file, size = _open(path, stack), path.stat().st_size
    if detect.recognise(file, size, path) == "json":
        return _sharded(path, stack)
    contents = _contents(file, size, path)
    if isinstance(contents, TorchFile):
        return _unwrapped(contents, path)
    if not contents.arrays:
        raise InputError(path, "holds no state dict", REMEDY)
    _check_arrays(contents.arrays, path)
    return WeightFile(
        path, (path,), contents.format, contents.arrays, _beside(path) | contents.metadata, contents.ignored
    )


def _unwrapped(contents: TorchFile, path: Path) -> WeightFile:
    """The state dict that is taken, where nothing tells more, and all that may be taken."""
    entries = unwrap.state_dicts(contents, path)
    if not entries:
        raise InputError(path, "holds no state dict", REMEDY)

    def take(state_dict: unwrap.StateDict) -> WeightFile:
        arrays = state_dict.arrays(contents, path)
        _check_arrays(arrays, path)
        metadata = _beside(path) | state_dict.metadata
        return WeightFile(path, (path,), contents.format, arrays, metadata, state_dict.ignored)

    def choice(state_dict: unwrap.StateDict) -> Choice:
        def load() -> np.ndarray:
            raise AssertionError("only described")

        shapes = {key: StoredArray(each.shape, each.dtype, load) for key, each in state_dict.tensors.items()}
        return Choice(state_dict.name, state_dict.known, shapes, functools.partial(take, state_dict))

    return dataclasses.replace(take(entries[0]), choices=tuple(map(choice, entries)))


def _open(path: Path, stack: contextlib.ExitStack) -> BinaryFile:
    if not path.exists():
        raise InputError(path, "no such file", REMEDY)
    if not path.is_file():
        raise InputError(path, "is no file", REMEDY)
    return stack.enter_context(path.open("rb"))


def _contents(file: BinaryFile, size: int, path: Path) -> TorchFile | array_files.ArrayFile:
    """Reads the contents of an open file with the reader of its format."""
    match detect.recognise(file, size, path):
        case "safetensors":
            return array_files.read_safetensors(file, size, path)
        case "zip":
            archive = zip_guard.open_zip(file, size)
            contents = torch_files.read_zip(archive, path) or array_files.read_npz(archive, path)
            if contents is None:
                raise InputError(path, "is a zip file, but neither torch's nor numpy's", REMEDY)
            return contents
        case "torch (legacy)":
            return torch_files.read_legacy(file, size, path)
    raise InputError(path, "is JSON, not weights", REMEDY)


def _sharded(path: Path, stack: contextlib.ExitStack) -> WeightFile:
    """The shards that an index names, each a file beside it."""
    places = _places(path)
    names = sorted(set(places.values()))
    shards: dict[str, WeightFile] = {}
    for name in names:
        shard = path.with_name(name)
        with reading(shard):
            shards[name] = _whole(shard, stack)
    missing = [f"{places[key]} has no {key}" for key in places if key not in shards[places[key]].arrays]
    if missing:
        raise InputError(path, f"does not fit its shards: {printable(missing[0])}", "save the weights again")
    arrays = {key: shards[name].arrays[key] for key, name in places.items()}
    format = shards[names[0]].format
    return WeightFile(
        path,
        (path, *(path.with_name(name) for name in names)),
        f"{format}, {len(names)} shard{'s' * (len(names) > 1)}",
        arrays,
        _beside(path) | shards[names[0]].metadata,
        tuple(
            key for name in names for key in (*shards[name].arrays, *shards[name].ignored) if places.get(key) != name
        ),
    )


def _places(path: Path) -> dict[str, str]:
    """Key -> shard of an index, each the name of a file beside it."""
    index = _json(path)
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()) or not places:
        raise InputError(path, "is JSON, but no index of shards", REMEDY)
    names = sorted(set(places.values()))
    if len(names) > MAX_SHARDS:
        raise InputError(path, f"names {len(names)} shards, more than {MAX_SHARDS}", "save it in fewer")
    for name in names:
        if not name or "/" in name or "\\" in name or ":" in name or name in (".", "..") or not name.isprintable():
            raise InputError(path, f"names a shard outside its folder: {printable(name)}", "name files beside it")
    return places


def _whole(path: Path, stack: contextlib.ExitStack) -> WeightFile:
    """A shard: a file of weights that is no index itself."""
    if not path.is_file():
        raise InputError(path, "no such file, but the index names it", "fetch all shards")
    with path.open("rb") as file:
        if detect.recognise(file, path.stat().st_size, path) == "json":
            raise InputError(path, "is JSON, but the index names it as a shard", "fetch all shards")
    return _describe(path, stack)


def _json(path: Path) -> Any:
    with path.open("rb") as file:
        text = file.read(MAX_JSON + 1)
    if len(text) > MAX_JSON:
        raise ValueError(f"JSON of more than {MAX_JSON} bytes")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            raise Longer(len(text), len(error.doc[: error.pos].encode())) from error
        if text.rstrip().endswith((b"}", b"]")):
            raise
        raise CutOff(len(text), "which end within its JSON") from error


def _beside(path: Path) -> dict[str, Any]:
    """{"config": ...} of the config.json that ``save_pretrained`` writes beside its files; {}
    without one, and, as it is not needed, None for one that cannot be read."""
    beside = path.with_name("config.json")
    if path.name not in FOLDER_FILES or not beside.exists():
        return {}
    try:
        config = _json(beside)
    except (OSError, ValueError, RecursionError, CutOff, Longer):
        config = None
    return {"config": config if isinstance(config, dict) else None}


def _check_arrays(arrays: dict[str, StoredArray], where: object) -> None:
    """Keys that can be named in one line, and numbers, not too many."""
    total = 0
    for key, array in arrays.items():
        if not 0 < len(key) <= MAX_KEY or not key.isprintable():
            raise InputError(where, f"has a key that is no name: {printable(key)}", REMEDY)
        if not is_numeric(array.dtype):
            problem = f"{printable(key)} has the type {printable(array.dtype)}"
            raise InputError(where, problem, "give arrays of floating point, integers or Booleans")
        total += array.nbytes
    if total > MAX_BYTES:
        raise InputError(where, f"its arrays take {total} bytes, more than {MAX_BYTES}", REMEDY)
