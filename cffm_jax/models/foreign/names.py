"""Other people's names for weights as data: what a backbone and a method say of them. Without JAX.

The release (NVlabs' MiT and SegFormer, the authors' CFFM; a backbone's own authors) names every
layer: ``Layer``. Any other origin says how its files make the released arrays: ``Rule``. No array
is mapped by shape or by guess.

Names are templates: ``{stage}`` stands for a stage counted from 1, ``{stage0}`` for the same from
0, ``{block}`` and ``{number}`` for numbers, ``{leaf}`` for what is left.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cffm_jax.models.foreign.layouts import BATCH_NORM, CONV, Combine, Kind, LayerArray, alone

RELEASED = "released"
"""The heads' naming in our files of the released layout, a key of ``MethodNames.origins``."""

_PLACEHOLDERS = {"stage": r"\d", "stage0": r"\d", "block": r"\d+", "number": r"\d+", "leaf": r".+"}


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    literals = re.split(r"\{(\w+)\}", template)
    for i, name in enumerate(literals):
        literals[i] = f"(?P<{name}>{_PLACEHOLDERS[name]})" if i % 2 else re.escape(name)
    return re.compile("".join(literals))


def fields_of(template: str, name: str) -> dict[str, str] | None:
    """The placeholders' values in a name of this form, the stage's by both counts; None for others.

    Examples:
      >>> fields_of("norm{stage}.{leaf}", "norm2.bias")
      {'stage': '2', 'leaf': 'bias', 'stage0': '1'}
    """
    match = _pattern(template).fullmatch(name)
    if not match:
        return None
    fields = match.groupdict()
    if "stage" in fields:
        fields["stage0"] = str(int(fields["stage"]) - 1)
    elif "stage0" in fields:
        fields["stage"] = str(int(fields["stage0"]) + 1)
    return fields


class Layer(NamedTuple):
    """A layer here and in the release; a table's first one with a fitting path counts.

    Attributes:
      path: template of its path in our tree, slash-separated.
      key: of its key in a released state dict.
      kind: which arrays it has, and their layouts.
    """

    path: str
    key: str
    kind: Kind


def conv_norm(path: str, conv: str, norm: str) -> tuple[Layer, Layer]:
    """A ``layers.ConvNorm``, by the keys of its convolution and of its norm."""
    return Layer(path, conv, CONV), Layer(f"{path}/norm", norm, BATCH_NORM)


def mm_conv(path: str, key: str) -> tuple[Layer, Layer]:
    """A ``layers.ConvNorm`` as MMSegmentation names it."""
    return conv_norm(path, f"{key}.conv", f"{key}.bn")


def layer_at(layers: Iterable[Layer], collection: str, path: str) -> tuple[Layer, LayerArray, str] | None:
    """The layer and array that a leaf of ours is, and its released key; None if it has no layer."""
    for layer in layers:
        for array in layer.kind:
            fields = fields_of(layer.path + array.path, path) if array.collection == collection else None
            if fields is not None:
                return layer, array, layer.key.format(**fields) + array.key
    return None


def block_parts(layers: Iterable[Layer], block: str) -> list[str]:
    """Ends of released keys after the key of a block (a template), whatever the block."""
    inside = [layer for layer in layers if layer.key.startswith(block)]
    parts = [layer.key.removeprefix(block) + array.key for layer in inside for array in layer.kind]
    return list(dict.fromkeys(part.format(number=n) for part in parts for n in (1, 2)))


class Rule(NamedTuple):
    """Released keys and what they are made of.

    Attributes:
      released: template of the released key.
      sources: of the file's keys, which the released key's fields fill in.
      combine: the file's arrays -> the released one.
    """

    released: str
    sources: tuple[str, ...]
    combine: Combine = alone


def rules(*rows: tuple[str, str] | tuple[str, str | tuple[str, ...], Combine]) -> tuple[Rule, ...]:
    """Rules from rows (released key, the file's key or keys, how they are combined)."""
    return tuple(Rule(new, (old,) if isinstance(old, str) else old, *combine) for new, old, *combine in rows)


AS_RELEASED = rules(("{leaf}", "{leaf}"))
"""The rules of files with the released names."""

Sources = tuple[tuple[str, ...], Combine]
"""Keys of a file, and how their arrays are combined."""


def sources_of(table: Iterable[Rule], released: str) -> Sources | None:
    """Keys of a file that a released key is made of, by the first rule for it; None without any."""
    for rule in table:
        fields = fields_of(rule.released, released)
        if fields is not None:
            return tuple(source.format(**fields) for source in rule.sources), rule.combine
    return None


@dataclasses.dataclass(frozen=True, eq=False)
class Origin:
    """A naming of an encoder's weights.

    Attributes:
      name: what files of such an encoder are called.
      prefix: of the encoder's keys in files of whole models; an encoder's own file may lack it.
      marks: pattern of keys without the prefix; a file's origin is the one that most keys fit.
      rules: for every released key; they leave the prefix out on both sides.
      dead: patterns of the file's keys that carry nothing the models compute with.
      licence: what is known about the use of such weights.
      heads: how whole models name the rest, a key of ``MethodNames.origins``; "" without any.
      whole: what such whole models are called; "" as the method says.
      settings: what the encoder computes differently: fields of ``ModelConfig``.
    """

    name: str
    prefix: str
    marks: str
    rules: tuple[Rule, ...]
    dead: tuple[str, ...]
    licence: str
    heads: str = ""
    whole: str = ""
    settings: Mapping[str, object] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class HeadOrigin:
    """A naming of what a method adds to its encoder.

    Attributes:
      names: what files of whole models are called, by the model's family; "" for all others.
      rules: for every released key.
      dead: patterns of the file's keys that carry nothing the models compute with.
      settings: what such a head computes differently: fields of ``ModelConfig``.
    """

    names: Mapping[str, str]
    rules: tuple[Rule, ...]
    dead: tuple[str, ...] = ()
    settings: Mapping[str, object] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class MethodNames:
    """The names of a method's weights beside the encoder's: all that conversion asks of a method.

    Attributes:
      prefix: of its keys, or several: a file with such a key holds a whole model.
      layers: every layer outside the encoder, as the release names it.
      origins: the namings of whole models; ``Origin.heads`` names one.
      families: first part of a model's public name -> the keys of ``blocks`` that it has.
      blocks: field of ``ModelConfig`` with a number of alike blocks, which
        ``Method.settings_resolved`` has too -> the released key of a block up to its layers, a
        template. A file tells how many there are.
      lengths: field of ``ModelConfig`` -> the released key of the array whose first length it is.
      dead_arrays: released live arrays by key -> the dead ones the release asks for, as zeros.
      without_place: a model -> what of it the release has no place for although it has names.
    """

    prefix: str | tuple[str, ...]
    layers: tuple[Layer, ...]
    origins: Mapping[str, HeadOrigin]
    families: Mapping[str, tuple[str, ...]]
    blocks: Mapping[str, str] = dataclasses.field(default_factory=dict)
    lengths: Mapping[str, str] = dataclasses.field(default_factory=dict)
    dead_arrays: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]] = lambda live: {}
    without_place: Callable[[Any], Sequence[str]] = lambda model: ()

    def count_named_keys(self, heads: str, keys: Iterable[str]) -> int:
        """How many keys of a file this method has names for, in the naming ``heads``."""
        origin = self.origins.get(heads)
        table = origin.rules if origin else ()
        templates = [source for rule in table if rule not in AS_RELEASED for source in rule.sources]
        if AS_RELEASED[0] in table:
            templates += [layer.key + array.key for layer in self.layers for array in layer.kind]
        return sum(any(fields_of(template, key) is not None for template in templates) for key in keys)


NO_NAMES = MethodNames(prefix="", layers=(), origins={}, families={})
"""The names of a method whose weights nobody else has."""
