"""State dicts within what torch.save wrote: beside an optimiser's state, notes, averages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from cffm_jax.errors import InputError
from cffm_jax.weights.files.stored_array import StoredArray, printable
from cffm_jax.weights.files.torch_files import SAVE_WEIGHTS, TorchFile
from cffm_jax.weights.files.torch_tensors import Tensor
from cffm_jax.weights.files.unpickle import Inert, Pairs, plain

WRAPPERS = (
    "state_dict", "model", "model_state_dict", "network", "net", "module", "state_dict_ema", "model_ema", "ema",
)  # fmt: skip
"""Names under which a checkpoint usually keeps its weights, in the order in which they are taken:
averaged ones only if there are no others."""

FEWEST = 8
"""Tensors of a dictionary of another name that may hold weights; a model has a hundred."""

_DEPTH = 4
"""Dictionaries and lists within each other; one may hold itself."""


class StateDict(NamedTuple):
    """A dictionary of a file that holds tensors.

    Attributes:
      name: of the entry that it is, "model.state_dict", "models.0"; "" for the whole file.
      known: whether all parts of the name are of ``WRAPPERS``.
      value: the dictionary.
      ignored: what is beside it and around it, by name.
      meta: the checkpoint's notes.
    """

    name: str
    known: bool
    value: Pairs
    ignored: tuple[str, ...]
    meta: Any

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {key: item for key, item in self.value.named().items() if isinstance(item, Tensor)}

    @property
    def metadata(self) -> dict[str, Any]:
        return plain(self.meta)

    def arrays(self, file: TorchFile, where: object) -> dict[str, StoredArray]:
        """Its tensors as arrays. InputError: one is of a kind that is not read."""
        for key, item in self.value.named().items():
            if _is_other_tensor(item):
                problem = f"{printable(key)} is no plain tensor ({printable(item.kind)})"
                raise InputError(where, problem, "save dense tensors of floating point")
        return {key: file.array(tensor) for key, tensor in self.tensors.items()}


def state_dicts(file: TorchFile, where: object) -> list[StateDict]:
    """All that may be weights; the first is taken where nothing tells more about them.

    Raises:
      InputError: it holds a whole object.
    """
    found = list(_find(file.value, set()))
    module = file.value if isinstance(file.value, Inert) else None
    if isinstance(file.value, Pairs) and not any(each.known for each in found):
        module = next((item for key, item in file.value.items if key in WRAPPERS and isinstance(item, Inert)), None)
    if module and not found:
        raise InputError(where, f"holds no state dict, but a whole object: {printable(module.kind)}", SAVE_WEIGHTS)
    return sorted(found, key=lambda each: (not each.known, 0 if each.known else -len(each.tensors)))


def _is_other_tensor(item: Any) -> bool:
    """Whether it is a tensor of a kind that is not read."""
    return isinstance(item, Inert) and "tensor" in item.kind


def _find(value: Any, seen: set[int], name: str = "", known: bool = True, meta: Any = None) -> Iterator[StateDict]:
    """Those below the usual names first, then the dictionary itself, then those of other names; the
    items of a list go by their numbers. ``ignored`` are the things from here on."""
    if not isinstance(value, Pairs | list | tuple) or id(value) in seen or name.count(".") >= _DEPTH:
        return
    seen.add(id(value))
    if not isinstance(value, Pairs):
        for i, item in enumerate(value):
            yield from _find(item, seen, f"{name}.{i}" if name else str(i), False, meta)
        return
    named = value.named()

    def below(keys: Iterable[str], known: bool) -> Iterator[StateDict]:
        for key in keys:
            place = f"{name}.{printable(key)}" if name else printable(key)
            for each in _find(named[key], seen, place, known, meta or named.get("meta")):
                others = (printable(other) for other in named if other != key)
                yield each._replace(ignored=(*others, *each.ignored))

    yield from below([key for key in WRAPPERS if key in named], known)
    rest = tuple(printable(key) for key, item in value.items if not isinstance(item, Tensor))
    count = sum(isinstance(item, Tensor) or _is_other_tensor(item) for item in named.values())
    if count >= (1 if known else FEWEST):
        yield StateDict(name, known, value, rest, meta)
    yield from below([key for key in named if key not in WRAPPERS], False)
