"""Weights of a model, described as they lie in a file of anybody; and the format of our files.

Our file is a ``.safetensors`` whose keys are the paths of the variables
(``params/encoder/stage1/...``) and whose metadata holds the config and where the weights come from.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from cffm_jax.config import Config, ModelConfig
from cffm_jax.errors import InputError
from cffm_jax.models import variables
from cffm_jax.models.create import build_model
from cffm_jax.models.methods.method import Method
from cffm_jax.settings import config_from_dict
from cffm_jax.weights import hub
from cffm_jax.weights.class_names import ClassNames, of_layout, of_metadata, of_stored
from cffm_jax.weights.files.read import file_digest
from cffm_jax.weights.files.stored_array import StoredArray
from cffm_jax.weights.files.weight_file import WeightFile
from cffm_jax.weights.naming.match import (
    as_float32,
    export_state_dict,
    load_leaves,
    match,
    not_finite,
    without_counterpart,
)
from cffm_jax.weights.naming.origins import ENCODER
from cffm_jax.weights.naming.recognise import Chosen, Named, choose

FORMAT = "cffm_jax"
WHOLE = "all"
OF_A_RUN = "cffm_jax run"
"""How the origin of a run's weights begins."""
_UNNAMED = ModelConfig(num_classes=124)
"""An encoder alone has no classes; its model is built with some, which change nothing of it."""
_MODEL_FIELDS = {field.name for field in dataclasses.fields(ModelConfig)}


@dataclasses.dataclass(frozen=True)
class StoredWeights:
    """Weights in a file or a run, described but not read.

    Attributes:
      source: the place that errors name.
      origin: whose they are, in words.
      part: "all", or "encoder" for an encoder alone, whose model is then the SegFormer with it.
      config: of the model; the other sections are the defaults unless a run of ours left them.
      leaves: by "<collection>/<path>".
      fresh: leaves that such files lack and that start afresh (ConvNeXt's stage norms).
      dead: keys that carry nothing which the model computes with.
      ignored: other contents of the file: an optimiser's state, notes, other weights.
      taken: which of the file's weights these are, in words; "" where it holds no others.
      licence: what is known about their use.
      sources: leaf -> the file's keys that it is made of.
      problems: why the file cannot be the model's weights.
      file: where they lie, if it is one.
      step: of the run that left them.
      classes: names and colours of the classes, as far as they are stated.
    """

    source: str
    origin: str
    part: str
    config: Config
    leaves: Mapping[str, StoredArray]
    fresh: tuple[str, ...] = ()
    dead: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    taken: str = ""
    licence: str = ""
    sources: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    problems: tuple[str, ...] = ()
    file: WeightFile | None = None
    step: int | None = None
    classes: ClassNames = ClassNames()

    @functools.cached_property
    def model(self) -> Method:
        return build_model(self.config.model, self.config.data.frame_channels)

    @property
    def parameters(self) -> int:
        return sum(int(np.prod(leaf.shape)) for path, leaf in self.leaves.items() if path.startswith("params/"))

    def require_sound(self) -> None:
        """InputError, with all that is wrong, unless the leaves are those of the model."""
        if self.problems:
            raise InputError(
                self.source,
                f"does not fit {self.model.public_name}, which it resembles most: {'; '.join(self.problems)}",
                "give the whole file as its authors wrote it",
            )

    def faults(self) -> tuple[str, ...]:
        """``problems``, or where there are none what is wrong with the values: reads them, one leaf
        after another. InputError: one cannot be read."""
        if self.problems:
            return self.problems
        fault = not_finite(path for path, leaf in self.leaves.items() if not np.isfinite(leaf.load()).all())
        return (fault,) if fault else ()

    def load(self) -> dict[str, Any]:
        """The variables. InputError if they are not sound, cannot be read or are not finite."""
        self.require_sound()
        return variables.unflatten(load_leaves(self.leaves, self.source))


def stored_weights(file: WeightFile, take: str = "") -> StoredWeights:
    """Describes the weights of a file, ours or anybody's; ``take``: see `choose`.

    Raises:
      InputError: it is of no origin or size that is known, or its own description is damaged.
    """
    if file.metadata.get("format") == FORMAT:
        if take:
            raise InputError(file.path, f"holds no weights {take!r}, but one set alone", "leave out --take")
        return _ours(file)
    named = [Named(choice.name, choice.known, choice.shapes) for choice in file.choices]
    chosen = choose(named or [Named("", True, file.arrays)], file.path, take, _architecture(file))
    for choice in file.choices[1:]:  # The first is described already.
        if choice.name == chosen.name:
            file = dataclasses.replace(choice.take(), path=file.path, choices=file.choices)
    return _foreign(file, chosen)


def _architecture(file: WeightFile) -> str:
    """The class that the config.json beside a file names, "" for none."""
    config = file.metadata.get("config")
    named = config.get("architectures") if isinstance(config, dict) else None
    return str(named[0]) if isinstance(named, list) and named else ""


def _foreign(file: WeightFile, chosen: Chosen) -> StoredWeights:
    described = {key: file.arrays[name] for key, name in chosen.foreign.names.items()}
    foreign = dataclasses.replace(chosen.foreign, arrays=described)
    description = _own_description(file)
    settings = {**foreign.settings(file.path), **description["model"]}
    config = Config(model=dataclasses.replace(_UNNAMED, **settings))
    part = ENCODER if foreign.family == ENCODER else WHOLE
    model = _described_model(file, config)
    matched = match(foreign, model, part)
    return StoredWeights(
        source=str(file.path),
        origin=description["origin"] or foreign.naming.name(foreign.family),
        part=part,
        config=config,
        leaves=matched.leaves,
        fresh=matched.fresh,
        dead=matched.dead,
        ignored=(*foreign.beside, *file.ignored),
        taken=chosen.taken,
        licence=description["licence"] or foreign.naming.origin.licence,
        sources=matched.sources,
        problems=tuple(matched.problems()),
        file=file,
        classes=_stated_classes(file, description["classes"], config, part),
    )


def _stated_classes(file: WeightFile, stored: Any, config: Config, part: str) -> ClassNames:
    if part == ENCODER:
        return ClassNames()
    if FORMAT in file.metadata:
        return of_stored(stored, config.model.num_classes, "the file")
    return of_metadata(file.metadata, config.model.num_classes)


def _own_description(file: WeightFile) -> dict[str, Any]:
    """Model settings, origin, licence, classes in our file of the released layout; else empty."""
    description: dict[str, Any] = {"model": {}, "origin": "", "licence": "", "classes": None}
    stored = file.metadata.get(FORMAT)
    if stored is None:
        return description
    try:
        stored = json.loads(stored) if isinstance(stored, str) else stored
        model, history = stored["model"], stored["provenance"]
        description["classes"] = stored.get("classes")
        description["model"] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in model.items() if k in _MODEL_FIELDS
        }
        return description | {name: str(history[name]) for name in ("origin", "licence")}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(file.path, "its description of the model is damaged", "convert it again") from error


def _ours(file: WeightFile) -> StoredWeights:
    try:
        config = config_from_dict(json.loads(file.metadata["config"]), file.path)
        part, history = file.metadata["part"], json.loads(file.metadata["provenance"])
        origin, licence, sources = history["origin"], history["licence"], history["keys"]
        named = json.loads(file.metadata["classes"]) if "classes" in file.metadata else None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(file.path, "its description of itself is damaged", "convert the original again") from error
    expected = variables.flatten(variables.variable_shapes(_described_model(file, config)))
    if part == ENCODER:
        expected = {path: leaf for path, leaf in expected.items() if path.startswith(f"params/{ENCODER}/")}
    leaves, problems = {}, [f"left over {path}" for path in file.arrays if path not in expected]
    fresh = tuple(path for path in expected if path not in file.arrays and path in history.get("fresh", ()))
    for path, leaf in expected.items():
        array = file.arrays.get(path)
        if array is None:
            problems += [] if path in fresh else [f"missing {path}"]
        elif array.shape != leaf.shape:
            problems.append(f"{path} is {list(array.shape)}, not {list(leaf.shape)}")
        else:
            load = functools.partial(_load, array)
            leaves[path] = StoredArray(leaf.shape, np.dtype(np.float32), load)
    return StoredWeights(
        source=str(file.path),
        origin=origin,
        part=part,
        config=config,
        leaves=leaves,
        fresh=fresh,
        ignored=file.ignored,
        licence=licence,
        sources=sources,
        problems=tuple(problems),
        file=file,
        classes=_own_classes(file, named, config, origin, part),
    )


def _own_classes(file: WeightFile, stored: Any, config: Config, origin: str, part: str) -> ClassNames:
    """What our file states; one of a run that is older than that says what it was trained on."""
    if part != ENCODER and "classes" not in file.metadata and origin.startswith(OF_A_RUN):
        return of_layout(config)
    return of_stored(stored, config.model.num_classes, "the file")


def _described_model(file: WeightFile, config: Config) -> Method:
    try:
        return build_model(config.model, config.data.frame_channels)
    except (InputError, TypeError) as error:
        raise InputError(file.path, f"describes no model ({error})", "give the file as it was written") from error


def _load(array: StoredArray) -> np.ndarray:
    return np.ascontiguousarray(as_float32(array.load()))


def provenance(weights: StoredWeights) -> dict[str, Any]:
    """Where weights come from: files' name (of the hub: address) and sha256, origin, licence, each
    array's own keys."""
    return {
        "source": weights.source if hub.is_address(weights.source) else Path(weights.source).name,
        "sha256": file_digest(weights.file.files) if weights.file else "",
        "origin": weights.origin,
        "licence": weights.licence,
        "written_by": f"{FORMAT} {metadata.version('cffm-jax')}",
        "dead": list(weights.dead),
        "ignored": list(weights.ignored),
        "taken": weights.taken,
        "fresh": list(weights.fresh),
        "keys": {path: list(keys) for path, keys in weights.sources.items()},
    }


def own_metadata(weights: StoredWeights, history: Mapping[str, Any]) -> dict[str, str]:
    """The metadata of our file."""
    return {
        "format": FORMAT,
        "part": weights.part,
        "config": json.dumps(dataclasses.asdict(weights.config)),
        "provenance": json.dumps(history),
        "classes": json.dumps(weights.classes.stored()),
    }


def released_arrays(weights: StoredWeights) -> dict[str, np.ndarray]:
    """The weights in the released layout, dead ones as zeros; InputError if some have no place."""
    model = weights.model
    if not model.channels.coloured:
        problem = f"is for frames of {', '.join(model.channels.names)}, and the release's files are for RGB"
        raise InputError(weights.source, problem, "keep our own format, --to cffm_jax")
    missing = [*without_counterpart(model), *model.foreign_names.without_place(model)]
    if missing and weights.part == WHOLE:
        problem = f"{model.public_name} with these settings has no counterpart in the release ({missing[0]})"
        raise InputError(weights.source, problem, "keep our own format, --to cffm_jax")
    return export_state_dict(weights.load(), model, part=weights.part, dead=weights.part == WHOLE)


def released_description(weights: StoredWeights, history: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of a file in the released layout: it is read here as it was written."""
    history_without_keys = {name: value for name, value in history.items() if name != "keys"}
    return {
        "model": dataclasses.asdict(weights.config.model),
        "provenance": history_without_keys,
        "classes": weights.classes.stored(),
    }
