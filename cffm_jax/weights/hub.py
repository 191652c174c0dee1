"""Weights by name: ``hf:owner/name:file@revision`` of the Hugging Face hub, out of its cache.

Fetched are the file of weights or its shards, config.json beside it, and README.md, whose head
states the licence; nothing of them is run. The work is huggingface_hub's, with its cache, its token
and its switches: HF_HOME, HF_TOKEN, HF_HUB_OFFLINE, HF_ENDPOINT.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from cffm_jax.errors import InputError, first_few
from cffm_jax.weights.files.read import FOLDER_FILES, shard_names
from cffm_jax.weights.files.stored_array import printable

PREFIX = "hf:"
_ADDRESS = re.compile(r"hf:([\w.-]+/[\w.-]+)(?::([^:@]+))?(?:@([^:@]+))?", re.ASCII)
_CARD = "README.md"
_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pth", ".pt", ".ckpt", ".npz")
"""How files of weights are called: for messages."""

Get = Callable[[str, str], Path | None]
"""A repository's file of this name at this revision; None if it holds none."""


class Fetched(NamedTuple):
    """Weights in the cache.

    Attributes:
      file: that holds them, or the index of their shards, which lie beside it.
      source: their address at the commit, which names the same bytes for ever.
      licence: what the model card states.
    """

    file: Path
    source: str
    licence: str


class _Address(NamedTuple):
    given: str
    repository: str
    file: str
    revision: str


def is_address(path: str | Path) -> bool:
    """Whether it names weights of the hub (./ before the name of a file that begins so)."""
    return str(path).startswith(PREFIX)


def file_name(address: str | Path) -> str:
    """A name for what belongs to weights of the hub: "owner--name--file@revision"."""
    return re.sub("[/:]", "--", str(address).removeprefix(PREFIX))


def fetch(path: str | Path) -> Fetched:
    """Fetches the weights that an address names, as far as the cache lacks them. Where the hub
    cannot be reached, or does not hand the file out, what the cache has is taken, and that is said.

    Raises:
      InputError: the address is none, there are no such weights, they are not for this user, they
        cannot be fetched and are not in the cache, their index is damaged, or huggingface_hub is
        not installed.
    """
    address = _parse(str(path))
    try:
        parts = ("huggingface_hub", "huggingface_hub.errors", "huggingface_hub.file_download")
        hub, errors, _ = map(importlib.import_module, parts)
    except ImportError as error:
        remedy = "install it: make install-hub, or pip install 'cffm-jax[hub]'; or fetch the file and name that"
        raise InputError(address.given, "needs huggingface_hub, and it is not installed", remedy) from error
    except ValueError as error:  # It reads its switches when it is imported.
        problem = f"huggingface_hub cannot read its environment ({printable(error)})"
        raise InputError(address.given, problem, "correct the variables HF_... (env | grep HF_)") from error
    with _quiet(), _one_line(address, hub, errors):
        get, files = _source(address, hub, errors)
        return _fetch(address, get, files)


def _parse(given: str) -> _Address:
    match = _ADDRESS.fullmatch(given)
    # huggingface_hub makes paths of both; a revision is also the name of a file in its cache.
    named = [name for name in match.groups()[1:] if name] if match else []
    parts = {part for name in named for part in name.split("/")}
    if not match or {"", ".", ".."} & parts or any("\\" in part or not part.isprintable() for part in parts):
        raise _malformed(given)
    return _Address(given, match[1], match[2] or "", match[3] or "main")


def _malformed(given: str) -> InputError:
    remedy = "write hf:owner/name, or hf:owner/name:file@revision (./ before a local name that begins so)"
    return InputError(given, "names no repository of the Hugging Face hub", remedy)


def _fetch(address: _Address, get: Get, files: list[str]) -> Fetched:
    for name in (address.file,) if address.file else FOLDER_FILES:
        file = get(name, address.revision)
        if file:
            break
    else:
        held = [name for name in files if name.endswith(_WEIGHTS)]
        remedy = "name another" if address.file else f"name one of its files: {PREFIX}{address.repository}:FILE"
        remedy = f"{remedy}, of {printable(first_few(held, 6))}" if held else "name another repository or revision"
        raise InputError(address.given, f"holds no {address.file or ' or '.join(FOLDER_FILES)}", remedy)
    folder, commit = PurePosixPath(name).parent, _commit(file, name)

    def beside(other: str) -> Path | None:
        return get(str(folder / other), commit)

    with naming(address.given, file):
        shards = shard_names(file) if name.endswith(".index.json") else []
    for shard in shards:
        if not beside(shard):
            problem = f"lacks {printable(shard)}, a shard that {name} names"
            raise InputError(address.given, problem, "name another file or revision, or fetch it anew")
    if file.name in FOLDER_FILES:
        beside("config.json")
    source = f"{PREFIX}{address.repository}{f':{address.file}' if address.file else ''}@{commit}"
    return Fetched(file, source, _licence(get(_CARD, commit)))


@contextlib.contextmanager
def naming(given: str | Path, file: Path) -> Iterator[None]:
    """Errors that name the file in the cache, or one beside it, name the address given."""
    try:
        yield
    except InputError as error:
        if not Path(error.where).is_relative_to(file.parent):
            raise
        raise InputError(given, error.problem, f"{error.remedy} (in the cache: {error.where})") from error


def _commit(file: Path, name: str) -> str:
    """The commit that a file in the cache is of, which holds it by this name."""
    return file.parents[name.count("/")].name


def _source(address: _Address, hub: types.ModuleType, errors: types.ModuleType) -> tuple[Get, list[str]]:
    """How to get files, and the names of all that there are: of the hub, or of its cache."""

    def cached(name: str, revision: str) -> Path | None:
        found = hub.try_to_load_from_cache(address.repository, name, revision=revision)
        return Path(found) if isinstance(found, str) else None

    def fetched(name: str, revision: str) -> Path | None:
        if revision not in (address.revision, info.sha):  # What is beside the older file, see below.
            return cached(name, revision)
        if name not in files:
            return None
        before = cached(name, revision)
        # The name of the revision, not the commit, so that the cache knows it when offline.
        file = Path(hub.hf_hub_download(address.repository, name, revision=revision))
        if _commit(file, name) != info.sha:
            if file != before:
                raise InputError(address.given, "was changed while it was fetched", "try again")
            # Where this request fails, huggingface_hub takes what the cache has, unsaid.
            warn(f"its commit {info.sha} cannot be fetched from {_endpoint(hub)}")
        return file

    def warn(problem: str) -> None:
        print(f"warning: {address.given}: {problem}: the copy in the cache is used", file=sys.stderr)

    try:
        timeout = hub.constants.HF_HUB_ETAG_TIMEOUT
        info = hub.HfApi().model_info(address.repository, revision=address.revision, timeout=timeout)
    except (OSError, errors.HTTPError) as error:
        wanted = (address.file,) if address.file else FOLDER_FILES
        if not _unreachable(error, errors) or not any(cached(name, address.revision) for name in wanted):
            raise
        if not isinstance(error, errors.OfflineModeIsEnabled):
            warn(_not_reached(error, hub))
        return cached, []
    if not info.sha:
        raise ValueError("it states no commit")
    files = [each.rfilename for each in info.siblings or ()]
    return fetched, files


def _unreachable(error: Exception, errors: types.ModuleType) -> bool:
    """Whether it says nothing about what was asked for: without a network, or of a hub that is
    down."""
    return not isinstance(error, errors.HfHubHTTPError) or error.response.status_code in (408, 429, *range(500, 600))


def _not_reached(error: Exception, hub: types.ModuleType) -> str:
    reason = printable((str(error).splitlines() or [""])[0]) or type(error).__name__
    return f"{_endpoint(hub)} cannot be reached ({reason})"


def _endpoint(hub: types.ModuleType) -> str:
    """The hub's address, for messages: without a user's name and password."""
    return re.sub("//[^/@]*@", "//", hub.constants.ENDPOINT)


@contextlib.contextmanager
def _one_line(address: _Address, hub: types.ModuleType, errors: types.ModuleType) -> Iterator[None]:
    """Every fault of huggingface_hub becomes an InputError that names the address."""
    page = f"{_endpoint(hub)}/{address.repository}"
    token = "give the token of one who may read it in HF_TOKEN, or by `hf auth login`"
    elsewhere = "fetch it elsewhere and name the file, or try again"
    try:
        yield
    except InputError:
        raise
    except errors.HFValidationError as error:
        raise _malformed(address.given) from error
    except errors.GatedRepoError as error:
        raise InputError(address.given, "is gated", f"ask for access at {page}; then {token}") from error
    except errors.RepositoryNotFoundError as error:
        remedy = f"check its name; of a private one, {token}"
        raise InputError(address.given, f"there is no such repository at {_endpoint(hub)}", remedy) from error
    except errors.RevisionNotFoundError as error:
        problem = f"there is no revision {address.revision}"
        raise InputError(address.given, problem, f"name a branch, a tag or a commit, see {page}/tree/main") from error
    except errors.OfflineModeIsEnabled as error:
        remedy = "fetch it once without this switch, or name a file"
        raise InputError(address.given, "is not in the cache, and HF_HUB_OFFLINE is set", remedy) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise InputError(address.given, f"is refused (HTTP {status})", f"see {page}; {token}") from error
        raise InputError(address.given, f"cannot be fetched (HTTP {status} of the hub)", elsewhere) from error
    except errors.HTTPError as error:  # httpx's, of all that a network does.
        problem = f"{_not_reached(error, hub)}, and the cache has no copy"
        raise InputError(address.given, problem, f"check the network, or HF_ENDPOINT; {elsewhere}") from error
    except ValueError as error:  # JSON of no hub.
        problem = f"what {_endpoint(hub)} answers is not a hub's ({printable(error)})"
        raise InputError(address.given, problem, f"check HF_ENDPOINT and the network; {elsewhere}") from error
    except (OSError, RuntimeError) as error:  # The cache's disk; hf_xet, the hub's means for large files.
        reason = printable((str(error).splitlines() or [type(error).__name__])[0])
        problem = f"cannot be fetched into {hub.constants.HF_HUB_CACHE} ({reason})"
        raise InputError(address.given, problem, f"check that place (HF_HOME) and the network; {elsewhere}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without huggingface_hub's warnings, of retries, links or tokens that are not needed: what it
    cannot do is an error. HF_HUB_VERBOSITY brings them back."""
    logging = importlib.import_module("huggingface_hub.utils.logging")
    before = logging.get_verbosity()
    with warnings.catch_warnings():
        if "HF_HUB_VERBOSITY" not in os.environ:
            warnings.filterwarnings("ignore", module="huggingface_hub")
            logging.set_verbosity_error()
        try:
            yield
        finally:
            logging.set_verbosity(before)


def _licence(card: Path | None) -> str:
    """What the head of a model card states: "other (its name, https://...)"."""
    yaml = importlib.import_module("yaml")  # Comes with huggingface_hub.
    try:
        stated = importlib.import_module("huggingface_hub").metadata_load(card) if card else None
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return "its model card cannot be read"

    def words(key: str) -> list[str]:
        value = (stated or {}).get(key)
        return [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)]

    named, more = ", ".join(words("license")), ", ".join(words("license_name") + words("license_link"))
    return printable(f"its model card states {named or 'no licence'}{f' ({more})' if more else ''}")
