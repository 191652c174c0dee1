"""Weights from anywhere: runs of ours, our files, and the files of others, for ``load``, the commands and training."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from cffm_jax.config import Config
from cffm_jax.conversion import inspection, state_dicts
from cffm_jax.conversion.files import FOLDER_FILES, StoredArray, open_weights
from cffm_jax.conversion.held import (
    FORMAT,
    WHOLE,
    Held,
    held_by,
    own_metadata,
    provenance,
    released_arrays,
    released_description,
)
from cffm_jax.conversion.recognise import ENCODER
from cffm_jax.conversion.writers import write_safetensors, write_torch
from cffm_jax.data.clips import FASTEST
from cffm_jax.errors import InputError
from cffm_jax.models.cffm import CFFM
from cffm_jax.models.encoders import make_encoder, size_of
from cffm_jax.training import checkpoint as saved
from cffm_jax.training.state import build_model, draw_variables, trained_parts

PARTS = {
    "encoder": "encoder",
    "decoder": "decoder",
    "frame_classifier": "frame classifier",
    "local": "local blocks",
    "clip_classifier": "clip classifier",
    "globals": "global blocks",
    "global_classifier": "global classifier",
}
"""First names of the parameters' paths (without a block's number) -> what they are called."""
CLASSIFIERS = ("frame classifier", "clip classifier", "global classifier")
GLOBAL_PARTS = ("global blocks", "global classifier")

_OPTIONS = {
    "backbone": "--model.name",
    "local_blocks": "--model.blocks",
    "global_blocks": "--model.global_blocks",
    "sources": "--model.receptive, --model.pooling",
    "attention": "--model.mining",
    "projection": "--model.projection",
}
"""What a model's parameters depend on -> the option that says it."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """A model with its weights.

    Attributes:
      model: the module; for a file of an encoder alone the encoder, f32[N, H, W, 3] -> its four maps.
      variables: what it is applied with.
      config: its settings; those of the data are the run's, or the defaults for weights from elsewhere.
      origin: whose weights they are.
      licence: what is known about their use.
    """

    model: nn.Module
    variables: dict[str, Any]
    config: Config
    origin: str
    licence: str

    def stream(
        self,
        frames: Iterable[np.ndarray],
        *,
        rate: float = 0.0,
        reference_seconds: Sequence[float] = (),
        ahead: int = 0,
    ) -> Iterator[np.ndarray]:
        """Masks u8[H,W] of frames u8[H,W,3] in RGB, one for each, in order; memory does not grow.

        Args:
          frames: of one size; any iterable, for example a camera's.
          rate: frames a second, at most 1000; 0: the references lie ``config.data.offsets`` frames back.
          reference_seconds: how long before the target the references lie, oldest first; with a rate and without these
            the papers' 9/15, 6/15 and 3/15 s. The nearest frames are taken.
          ahead: see ``inference.streaming.stream``; more than 0 is faster where frames need not be answered at once.

        Raises:
          InputError: these are the weights of an encoder alone, the numbers do not fit, or a frame is no u8[H,W,3] or
            differs in size.
        """
        from cffm_jax.inference import streaming

        config, model = self.config, self.model
        if not isinstance(model, CFFM):
            raise InputError(self.origin, "are the weights of an encoder alone", "give those of a whole model")
        if not 0 <= rate <= FASTEST or (reference_seconds and not rate):
            raise InputError("rate", f"is {rate:g}", f"give the frames a second, more than 0 and at most {FASTEST}")
        if rate:
            offsets = streaming.offsets_at(rate, len(model.sources), reference_seconds)
            config = dataclasses.replace(config, data=dataclasses.replace(config.data, offsets=offsets))
        return streaming.stream(model, self.variables, config, frames, ahead=ahead)


def load(path: str | Path, *, raw: bool = False) -> Weights:
    """Loads weights of any kind.

    Args:
      path: the folder of a run, a ``.safetensors`` of ``convert.py``, or a file that it would take: NVlabs',
        MMSegmentation's or Hugging Face's MiT and SegFormer, the authors' CFFM and CFFM++, PVTv2, ConvNeXt. Position
        tables and pooling weights do not depend on the size of the frames: none is ever resized.
      raw: of a run that keeps a moving average (``optim.ema``), the last weights and not their average.

    Raises:
      InputError: it is none of these, damaged, or of no model that is known.

    Example:
      >>> weights = cffm_jax.load("cffm_b1.pth")  # doctest: +SKIP
      >>> logits = weights.model.apply(weights.variables, clips)  # doctest: +SKIP
      >>> for mask in weights.stream(frames): ...  # doctest: +SKIP
    """
    with open_stored(path, raw=raw) as held:
        model, variables = held.model, complete(held)
        if held.part == ENCODER:
            model = make_encoder(model.backbone, model.norm_epsilons, model.drop_path, model.dtype)
            variables = {"params": variables["params"][ENCODER]}
        return Weights(model, variables, held.config, held.origin, held.licence)


def complete(held: Held) -> dict[str, Any]:
    """The variables that are stored; leaves that such files lack start afresh."""
    variables = held.load()
    if not held.fresh:
        return variables
    start = random_leaves(held.model, jax.random.key(0), held.fresh)
    return state_dicts.unflatten({**state_dicts.flatten(variables), **start})


def random_leaves(model: CFFM, key: jax.Array, paths: Sequence[str]) -> dict[str, np.ndarray]:
    """Some of the model's initial leaves: those that training from nothing would start with, and only they are made."""

    @jax.jit
    def start(key: jax.Array) -> dict[str, jax.Array]:
        leaves = state_dicts.flatten(draw_variables(model, key))
        return {path: leaves[path] for path in paths}

    return jax.device_get(start(key)) if paths else {}


@contextlib.contextmanager
def open_stored(path: str | Path, *, raw: bool = False) -> Iterator[Held]:
    """Describes the weights of a run's folder or of a file; they can be loaded while it is open. ``raw``: see ``load``.

    Raises:
      InputError: there are none, or they are of no model that is known.
    """
    path = Path(path)
    if is_run(path):
        with saved.open_checkpoints(path) as checkpoints:
            yield _of_run(checkpoints, path, raw)
        return
    if not path.exists():
        raise InputError(path, "no such file or folder", "name the folder of a run, or a file of weights")
    if path.is_dir() and not any((path / name).is_file() for name in FOLDER_FILES):
        remedy = f"name a run's folder, as --workdir of train.py, or one that holds {' or '.join(FOLDER_FILES)}"
        raise InputError(path, "holds neither checkpoints nor weights", remedy)
    with open_weights(path) as file:
        yield held_by(file)


def is_run(path: Path) -> bool:
    """Whether it is the folder of a run of ours, its folder of checkpoints, or a checkpoint in that."""
    return (saved.workdir_of(path) / saved.FOLDER).is_dir()


def beside(path: str | Path, name: str) -> Path:
    """Where to put a file or folder that belongs to weights: into the run's folder, or next to their file."""
    path = Path(path)
    if is_run(path):
        return saved.workdir_of(path) / name
    return path.with_name(f"{path.name}.{name}")


def _of_run(checkpoints: saved.Checkpoints, path: Path, raw: bool) -> Held:
    step = saved.sound_step(checkpoints, path)
    config = checkpoints.config(step)
    model = build_model(config)
    shapes = state_dicts.variable_shapes(model)
    averaged = tuple(trained_parts(model, shapes["params"])) if checkpoints.has_average(step) and not raw else ()

    @functools.cache
    def restored() -> dict[str, Any]:
        return state_dicts.flatten(jax.device_get(checkpoints.restore_variables(step, shapes, averaged)))

    def describe(name: str, leaf: jax.ShapeDtypeStruct) -> StoredArray:
        return StoredArray(leaf.shape, np.dtype(leaf.dtype), lambda: np.asarray(restored()[name]))

    started = config.init.model or config.init.encoder
    return Held(
        source=str(path),
        origin=f"cffm_jax run, step {step}{', EMA weights' if averaged else ''}",
        step=step,
        part=WHOLE,
        config=config,
        leaves={name: describe(name, leaf) for name, leaf in state_dicts.flatten(shapes).items()},
        licence=f"that of {started}, from which it was trained" if started else "yours: trained from random weights",
    )


class Report(NamedTuple):
    """What became of the weights that training starts from.

    Attributes:
      source, origin: where they were found.
      loaded: parts that were taken over.
      parameters: how many numbers those are.
      fresh: parts that start at random -> why.
      dead: keys that no model computes with.
      ignored: parts that the model does not have, and what else the file holds.
      licence: what is known about their use.
    """

    source: str
    origin: str
    loaded: tuple[str, ...]
    parameters: int
    fresh: dict[str, str]
    dead: tuple[str, ...]
    ignored: tuple[str, ...]
    licence: str

    def __str__(self) -> str:
        said = f"{', '.join(self.loaded)} ({self.parameters:,} parameters) from {self.source} ({self.origin})"
        if self.fresh:
            said += "; random: " + ", ".join(f"{part} ({why})" for part, why in self.fresh.items())
        for what, names in (("dead", self.dead), ("ignored", self.ignored)):
            more = f" and {len(names) - 6} more" if len(names) > 6 else ""
            said += f"; {what}: {', '.join(names[:6])}{more}" if names else ""
        return f"{said}; licence: {self.licence}" if self.licence else said


def part_of(path: str) -> str:
    """The part of the model that a leaf ("<collection>/<path>") belongs to."""
    top = path.split("/")[1]
    return PARTS[top if top in PARTS else top.rpartition("_")[0]]


def start_from(
    held: Held, model: CFFM, key: jax.Array, *, only: Sequence[str] = (), may_be_fresh: Sequence[str] | None = None
) -> tuple[dict[str, Any], Report]:
    """Variables of ``model``, part by part out of ``held`` where it has the part, else at random.

    A part is taken whole or not at all. It starts at random where ``held`` lacks it, where it classifies into another
    number of classes, or where the features are of another width; everything else that differs is an error.

    Args:
      held: the weights.
      model: what they are for.
      key: of the random parts.
      only: parts to take; default: all.
      may_be_fresh: parts that may start at random; default: all but the encoder.

    Raises:
      InputError: they are of another model, incomplete, damaged or not finite.
    """
    held.require_sound()
    wanted = state_dicts.flatten(state_dicts.variable_shapes(model))
    parts = {part: [path for path in wanted if part_of(path) == part] for part in PARTS.values()}
    parts = {part: paths for part, paths in parts.items() if paths}
    fresh = {part: why for part in parts if (why := _why_fresh(part, held, model, only))}
    _require_same(held, model, wanted, [p for part in parts if part not in fresh for p in parts[part]])
    refused = [part for part in fresh if may_be_fresh is not None and part not in may_be_fresh]
    if refused or ENCODER in fresh:
        part = (refused or [ENCODER])[0]
        remedy = f"give the weights of a whole {model.clone(global_blocks=0).public_name} with these settings"
        raise InputError(held.source, f"lacks the {part} that {model.public_name} needs ({fresh[part]})", remedy)
    taken = [path for part in parts if part not in fresh for path in parts[part] if path not in held.fresh]
    arrays = state_dicts.load_leaves({path: held.leaves[path] for path in taken}, held.source)
    arrays |= random_leaves(model, key, tuple(path for path in wanted if path not in arrays))
    unused = {part_of(path) for path in held.leaves} - set(parts)
    report = Report(
        source=held.source,
        origin=held.origin,
        loaded=tuple(part for part in parts if part not in fresh),
        parameters=sum(arrays[path].size for path in taken if path.startswith("params/")),
        fresh={**fresh, **({"norms of the encoder's stages": "not in such files"} if held.fresh else {})},
        dead=held.dead,
        ignored=(*(f"the {part}" for part in sorted(unused)), *held.ignored),
        licence=held.licence,
    )
    return state_dicts.unflatten(arrays), report


def _why_fresh(part: str, held: Held, model: CFFM, only: Sequence[str]) -> str:
    """Why a part starts at random; "" if it is taken over."""
    if only and part not in only:
        return "as asked"
    if not any(part_of(path) == part for path in held.leaves):
        return "not there"
    there = held.model
    if part != ENCODER and there.width != model.width:
        return f"{there.width} channels wide there, {model.width} here"
    if part in CLASSIFIERS and there.num_classes != model.num_classes:
        return f"{there.num_classes} classes there, {model.num_classes} here"
    return ""


def _require_same(held: Held, model: CFFM, wanted: dict[str, Any], paths: list[str]) -> None:
    """InputError if leaves that are to be taken over have another shape, or are not there."""
    there = held.model
    problems = [f"its encoder is {there.backbone}"] if there.backbone != model.backbone else []
    for path in [] if problems else paths:
        leaf = held.leaves.get(path)
        if leaf is None and path not in held.fresh:
            problems.append(f"{path} is not there")
        elif leaf is not None and leaf.shape != wanted[path].shape:
            problems.append(f"{path} is {list(leaf.shape)}, not {list(wanted[path].shape)}")
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        differs = [option for name, option in _OPTIONS.items() if getattr(there, name) != getattr(model, name)]
        raise InputError(
            held.source,
            f"holds {there.public_name}, which does not fit {model.public_name} with these settings: "
            f"{'; '.join(problems[:5])}{more}",
            f"set {', '.join(differs)} as it was trained, or give other weights",
        )


def convert(path: str | Path, output: Path, to: str, *, raw: bool = False) -> str:
    """``convert.py``: writes weights of any kind to a new file, whole or not at all.

    Args:
      path: as for ``load``.
      output: the file to write.
      to: "cffm_jax" for our .safetensors; "torch" or "safetensors" for the released layout, dead weights as zeros.
      raw: as for ``load``.

    Returns:
      Lines for the user: what was written, and what is known about its use.

    Raises:
      InputError: the weights cannot be used, the release has no place for them, or the file cannot be written.
    """
    with open_stored(path, raw=raw) as held:
        held.require_sound()
        history = provenance(held)
        if to == "cffm_jax":
            arrays = state_dicts.load_leaves(held.leaves, held.source)
            write_safetensors(output, arrays, own_metadata(held, history))
        else:
            arrays, told = released_arrays(held), released_description(held, history)
            if to == "torch":
                write_torch(output, arrays, {FORMAT: told})
            else:
                write_safetensors(output, arrays, {"format": "pt", FORMAT: json.dumps(told)})
        said = f"{inspection.description(held)}\n{output}: written ({len(arrays)} arrays)"
        if to != "cffm_jax" and held.model.norm_epsilons != size_of(held.model.backbone).norm_epsilons:
            said += f"\nnote: its norms were trained with epsilons {held.model.norm_epsilons}, not with the release's"
        return said
