"""Compares the config of a checkpoint with the one asked for: same model, same run, differences."""

from __future__ import annotations

import json
from typing import Any

from cffm_jax.config import NOTHING, REQUIRED, SETTINGS, Config
from cffm_jax.errors import InputError
from cffm_jax.models.create import build_model
from cffm_jax.rules import option_name, values


def require_same_model(stored: Config, asked: Config, source: object) -> None:
    """InputError if a checkpoint's parameters are of another model or other arithmetic than asked
    for."""
    for setting, (has, asks) in _differing(stored, asked).items():
        about = SETTINGS[setting]
        if (setting.startswith("model.") or about.of_weights) and not about.any_weights:
            raise InputError(
                source,
                f"is a checkpoint with {setting} {json.dumps(has)}, but the config says {json.dumps(asks)}",
                f"give its own config, or {as_option(setting, has)}",
            )


def require_same_run(stored: Config, asked: Config, source: object) -> None:
    """InputError with all settings that change what a run trains and differ from its own."""
    differ = {name: pair for name, pair in _differing(stored, asked).items() if SETTINGS[name].changes == "training"}
    if differ:
        pairs = (f"{name} {json.dumps(has)}, not {json.dumps(asks)}" for name, (has, asks) in differ.items())
        options = " ".join(as_option(name, has) for name, (has, _) in differ.items())
        remedy = f"give {options} to go on, or another --workdir"
        if set(differ) == {"train.steps"}:
            # Its rate falls with its own steps: it has not followed a longer schedule.
            instead = " in place of --init.encoder" if asked.init.encoder not in ("", NOTHING, REQUIRED) else ""
            remedy = (
                f"{remedy}: --init.model {source}{instead} --workdir NEW trains on from its weights, "
                "with a schedule of its own"
            )
        raise InputError(source, f"is a run with {', '.join(pairs)}", remedy)


def changed_settings(stored: Config, asked: Config) -> dict[str, Any]:
    """Settings by dotted name that differ from the weights' and may change evaluated figures."""
    return {
        name: asks
        for name, (_, asks) in _differing(stored, asked).items()
        if SETTINGS[name].evaluated and SETTINGS[name].changes != "nothing"
    }


def as_option(name: str, value: Any) -> str:
    """A setting as the command line takes it."""
    if isinstance(value, bool):
        section, dot, field = name.rpartition(".")
        return option_name(name if value else f"{section}{dot}no-{field}")
    words = " ".join(map(str, value)) if isinstance(value, tuple) else "''" if value == "" else value
    return f"{option_name(name)} {words}".rstrip()


def _differing(stored: Config, asked: Config) -> dict[str, tuple[Any, Any]]:
    """Settings that differ, by dotted name; one left to the backbone is what the backbone has."""
    has, asks = _resolved(stored), _resolved(asked)
    return {name: (has[name], asks[name]) for name in has if has[name] != asks[name]}


def _resolved(config: Config) -> dict[str, Any]:
    channels = config.data.frame_channels
    resolved = build_model(config.model, channels).settings_resolved
    stated = {"data.mean": channels.mean, "data.std": channels.std}
    random = {"init.encoder": config.init.encoder or NOTHING}  # Two words for the same.
    return values(config) | stated | random | {f"model.{name}": value for name, value in resolved.items()}
