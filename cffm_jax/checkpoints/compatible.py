"""Whether a checkpoint goes with the config that is asked for, as weights of the same model or as the same run; and
what that has otherwise."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from cffm_jax.config import WITHOUT_EFFECT, Config
from cffm_jax.errors import InputError
from cffm_jax.models.create import create_model

MAY_DIFFER = (
    *WITHOUT_EFFECT, "workdir", "data.root", "data.eval_split", "eval.prototypes", "eval.max_videos",
    "prototypes.folder", "prototypes.memory", "prototypes.interval",
)  # fmt: skip
"""Settings that a run may go on with another value of: they do not touch what it trains, or on what."""

_OF_FIGURES = ("model.", "data.", "eval.", "prototypes.")
"""Sections that an evaluation reads."""


def require_same_model(stored: Config, asked: Config, source: object, *, name: str = "") -> None:
    """InputError if a checkpoint's parameters are of another model than the config asks for, or of other arithmetic.

    ``name`` stands in for the name that is asked for: CFFM++ starts from its CFFM.
    """
    wants = dataclasses.replace(asked, model=dataclasses.replace(asked.model, name=name or asked.model.name))
    fields = (
        "name", "num_classes", "blocks", "global_blocks", "receptive", "pooling", "mining", "norm_epsilons",
        "projection", "width",
    )  # fmt: skip
    pair = [_flat(config) for config in (stored, wants)]
    for field in fields:
        has, asks = (flat[f"model.{field}"] for flat in pair)
        if has != asks:
            raise InputError(
                source,
                f"is a checkpoint with model.{field} {json.dumps(has)}, but the config says {json.dumps(asks)}",
                f"give its own config, or {as_option(f'model.{field}', has)}",
            )


def require_same_run(stored: Config, asked: Config, source: object) -> None:
    """InputError with all settings that differ from those a run was started with, but for ``MAY_DIFFER``."""
    has, asks = _flat(stored), _flat(asked)
    differ = [name for name in has if has[name] != asks[name] and name not in MAY_DIFFER]
    if differ:
        said = ", ".join(f"{name} {json.dumps(has[name])}, not {json.dumps(asks[name])}" for name in differ)
        options = " ".join(as_option(name, has[name]) for name in differ)
        raise InputError(source, f"is a run with {said}", f"give {options} to go on, or another --workdir")


def changed_settings(stored: Config, asked: Config) -> dict[str, Any]:
    """What an evaluation's figures may owe to it: settings, by dotted name, that are not those of the weights."""
    has, asks = _flat(stored), _flat(asked)
    names = (name for name in asks if name.startswith(_OF_FIGURES) and name not in WITHOUT_EFFECT)
    return {name: asks[name] for name in names if has[name] != asks[name]}


def as_option(name: str, value: Any) -> str:
    """A setting as the command line takes it."""
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    value = " ".join(map(str, value)) if isinstance(value, tuple) else value
    return f"--{name} {value}".rstrip() if value != "" else f"--{name} ''"


def _flat(config: Config) -> dict[str, Any]:
    """Settings by dotted name; those that the backbone decides resolved."""
    tree = dataclasses.asdict(config)
    tree["model"] |= create_model(**tree["model"]).settings_resolved
    flat = {}
    for section, value in tree.items():
        flat |= {f"{section}.{name}": v for name, v in value.items()} if isinstance(value, dict) else {section: value}
    return flat
