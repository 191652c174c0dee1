"""Settings from config files, stored JSON, command line. A fault is one line and exit status 2."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.resources
import importlib.util
import inspect
import json
import sys
import typing
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

import tyro

from cffm_jax.config import Config
from cffm_jax.errors import InputError
from cffm_jax.rules import earlier_names, renamed_in_words

T = TypeVar("T")
Settings = Annotated[Config, tyro.conf.arg(name="")]
"""Type of a command's field that takes every setting as an option: --train.steps."""

RUN_CONFIG = "config.json"
"""The file of a run's folder that holds its settings."""


def shipped_configs() -> Path:
    """The folder of the package's configs: inside of it, or in a checkout beside it."""
    package = Path(str(importlib.resources.files("cffm_jax")))
    return next(filter(Path.is_dir, (package / "configs", package.parent / "configs")), package / "configs")


def find_config(name: str | Path) -> Path:
    """A config file by its path, that of a run by its folder, or one that comes with the package by
    its bare name: ``b1_vspw``.

    Raises:
      InputError: there is none.
    """
    path = Path(name)
    if (path / RUN_CONFIG).is_file():
        return path / RUN_CONFIG
    if path.is_file():
        return path
    if path.name != str(name):
        raise InputError(path, "no such config file", "name one of configs/*.py, or a run's folder")
    known = {file.stem: file for file in sorted(shipped_configs().glob("*.py"))}
    if path.name.removesuffix(".py") not in known:
        close = difflib.get_close_matches(path.name.removesuffix(".py"), known)
        remedy = f"did you mean {', '.join(close)}?" if close else f"name a file, or one of {', '.join(known)}"
        raise InputError(path, "no such config file", remedy)
    return known[path.name.removesuffix(".py")]


def load_config(name: str | Path, given: Mapping[str, Any] = MappingProxyType({})) -> Config:
    """The config of a file alone, see `load_recipe`."""
    return load_recipe(name, given)[0]


def load_recipe(name: str | Path, given: Mapping[str, Any] = MappingProxyType({})) -> tuple[Config, tuple[str, ...]]:
    """The config of a run, or of a file, named as for `find_config`, and lines about it.

    A file defines ``get_config() -> Config``, or, where the settings depend on others such as
    ``data.root``, ``get_config(given) -> (Config, lines)``.

    Args:
      given: the values of the command line, by dotted name; they go on top of the config later.

    Raises:
      InputError: the file is missing, is no such file, or sets a field that does not exist.
    """
    path = find_config(name)
    if path.suffix == ".json":
        return _load_run_config(path), ()
    spec = importlib.util.spec_from_file_location(f"cffm_jax_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(path, "is no Python file", "name one of configs/*.py")
    module = importlib.util.module_from_spec(spec)
    # A config may build on its neighbours, or on those of the package: `import b1_vspw`.
    sys.path[:0] = [str(path.parent.resolve()), str(shipped_configs())]
    try:
        spec.loader.exec_module(module)
        made = module.get_config(*((given,) if "given" in inspect.signature(module.get_config).parameters else ()))
    except InputError:
        raise
    except Exception as error:  # The file is a program of the user's: anything can go wrong in it.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(path, _earlier_name(reason) or reason, "see the fields in cffm_jax/config") from error
    finally:
        del sys.path[:2]
    config, lines = made if isinstance(made, tuple) and len(made) == 2 else (made, ())
    if not isinstance(config, Config):
        raise InputError(path, f"get_config() returned {type(config).__name__}, not Config", "return a Config")
    return config, tuple(lines)


def _earlier_name(reason: str) -> str:
    """What to say where Python has missed a field in a config file that had this name; "" else."""
    for name, now in earlier_names(Config).items():
        section, _, field = name.rpartition(".")
        if type(getattr(Config(), section)).__name__ in reason and f"'{field}'" in reason:
            return f"{name} {renamed_in_words(now)}"
    return ""


def _load_run_config(path: Path) -> Config:
    try:
        stored = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        remedy = "name another run or one of configs/*.py, or give another --workdir"
        raise InputError(path, "cannot be read as JSON", remedy) from error
    return config_from_dict(stored, path)


def config_from_dict(stored: dict[str, Any], source: object) -> Config:
    """The inverse of ``dataclasses.asdict``, as stored with a checkpoint.

    Fields that are not stored are newer and have their defaults; those that had another name
    (`rules.About.formerly`) mean what they did. InputError on an unknown field.
    """
    return _from_dict(Config, stored, source, "")


def _from_dict(cls: type[T], stored: dict[str, Any], source: object, prefix: str) -> T:
    types = typing.get_type_hints(cls)
    if not isinstance(stored, dict):
        raise InputError(source, f"stored config: {prefix.rstrip('.')} is no section", "name another run")
    stored = dict(stored)
    for earlier, name in earlier_names(cls).items():
        if earlier in stored:
            sides = stored.pop(earlier)
            if not isinstance(sides, list | tuple):
                raise InputError(source, f"stored config: {prefix}{earlier} cannot be read", "name another run")
            stored[name] = sides[::-1]
    unknown = [prefix + key for key in stored if key not in types]
    if unknown:
        problem = f"stored config: unknown {', '.join(unknown)}"
        raise InputError(source, problem, "use the version of cffm_jax that wrote it")
    values = {}
    for key, value in stored.items():
        kind = types[key]
        if dataclasses.is_dataclass(kind):
            value = _from_dict(kind, value, source, f"{prefix}{key}.")
        elif isinstance(value, list):
            value = tuple(value)
        values[key] = value
    return cls(**values)
