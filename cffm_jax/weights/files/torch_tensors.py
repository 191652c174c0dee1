"""Storages and tensors, as torch's pickles describe them."""

from __future__ import annotations

import dataclasses
import math
from pickle import UnpicklingError
from typing import Any

import ml_dtypes
import numpy as np

from cffm_jax.weights.files.stored_array import check_shape
from cffm_jax.weights.files.unpickle import Inert, Name, Pairs

_MODULES = ("torch", "torch.cuda", "torch.storage")

STORAGES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
    "ComplexFloatStorage": np.complex64,
    "ComplexDoubleStorage": np.complex128,
    "UntypedStorage": np.uint8,
    "QInt8Storage": np.int8,
    "QUInt8Storage": np.uint8,
    "QInt32Storage": np.int32,
    "QUInt4x2Storage": np.uint8,
    "QUInt2x4Storage": np.uint8,
}
"""Classes of storages -> the type of their elements."""
_DTYPES = {
    name: np.dtype(getattr(ml_dtypes, name, name))
    for name in ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu",
                 "uint16", "uint32", "uint64")
}  # fmt: skip
"""Types without a storage class of their own."""


@dataclasses.dataclass(frozen=True)
class Storage:
    """A run of elements in the file."""

    key: str
    dtype: np.dtype
    count: int
    start: int = 0
    """First element, of a view of another storage (torch < 0.4)."""

    @property
    def nbytes(self) -> int:
        return self.count * self.dtype.itemsize


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """A strided view of a storage; offset and stride in elements of ``dtype``."""

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def span(self) -> int:
        """Elements from the first to the last."""
        return 0 if 0 in self.shape else 1 + sum((n - 1) * s for n, s in zip(self.shape, self.stride))

    @property
    def contiguous(self) -> bool:
        """Whether its elements follow each other, the last axis fastest."""
        expected = 1
        if 0 in self.shape:
            return True
        for n, s in zip(reversed(self.shape), reversed(self.stride)):
            if n > 1 and s != expected:
                return False
            expected *= n
        return True


def storage_of(pid: Any) -> Storage | Name:
    """('storage', class, key, device, elements, ...) of a persistent id; of ('module', class, its
    source code) the class is kept, by its name."""
    if type(pid) is tuple and len(pid) > 1 and pid[0] == "module" and type(pid[1]) is Name:
        return pid[1]
    kind, cls, key, _, count = pid[:5] if type(pid) is tuple and len(pid) >= 5 else (None,) * 5
    sound = kind == "storage" and type(key) is str and type(count) is int and 0 <= count < 2**48
    if not sound or type(cls) is not Name or cls.module not in _MODULES or cls.name not in STORAGES:
        raise UnpicklingError("it refers to a storage of no known type")
    return Storage(key, np.dtype(STORAGES[cls.name]), count)


def make(function: Name, arguments: tuple) -> Any:
    """What a known function returns: dictionaries, tensors; of others only the name is kept."""
    match (function.module, function.name):
        case ("collections", "OrderedDict" | "defaultdict"):
            pairs = arguments[0] if arguments and function.name == "OrderedDict" else []
            return Pairs([(key, value) for key, value in (pairs.items if type(pairs) is Pairs else pairs)])
        case ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2"):
            negated = len(arguments) > 6 and type(arguments[6]) is Pairs and bool(arguments[6].items)
            return Inert("torch tensor with flags") if negated else _tensor(*arguments[:4])
        case ("torch._utils", "_rebuild_tensor_v3"):
            return _tensor(*arguments[:4], dtype=arguments[6])
        case ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state"):
            return arguments[0]
        case ("torch.nn.parameter", "Parameter" | "Buffer") if arguments:
            return arguments[0]
        case ("torch._tensor", "_rebuild_from_type_v2"):
            return make(arguments[0], arguments[2])
        case ("torch", "Size"):
            return tuple(arguments[0])
    return Inert(str(function))


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, dtype: Any = None) -> Tensor | Inert:
    """A tensor once it is known to lie within its storage."""
    if type(dtype) is Name and str(dtype).removeprefix("torch.") not in _DTYPES:
        return Inert(f"tensor of {dtype}")
    kind = _DTYPES[dtype.name] if type(dtype) is Name else storage.dtype
    numbers = (offset, *shape, *stride)
    if not all(type(n) is int and 0 <= n < 2**48 for n in numbers) or len(shape) != len(stride):
        raise UnpicklingError("a tensor has an impossible shape")
    tensor = Tensor(storage, kind, offset, tuple(shape), tuple(stride))
    check_shape(tensor.shape)
    room = storage.nbytes // kind.itemsize
    if math.prod(shape) > room or offset + tensor.span > room:
        raise UnpicklingError("a tensor reaches beyond its storage")
    return tensor
