"""Shared by all readers of weight files: arrays described but not read, errors of one line."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
from collections.abc import Callable, Iterator

import ml_dtypes
import numpy as np

from cffm_jax.errors import InputError

BinaryFile = io.BufferedReader | io.BytesIO
REMEDY = "give a .pth of torch, a .safetensors or an .npz with the weights"
FETCH = "fetch it again, whole: its end is missing"
MAX_DIMENSIONS = 32
"""numpy's own limit before version 2."""

MAX_BYTES = 16 << 30
"""Bytes that the arrays of one file may have together: forty times a B5 in float32."""

FLOOR_BYTES = 64 << 20
"""Up to here the size of a file's content is nobody's concern, however small the file."""

MAX_SHOWN = 160
"""Characters of a file's text in a message."""

_KINDS = "biuf"
_FLOATS = {
    np.dtype(kind)
    for kind in (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e5m2,
                 ml_dtypes.float8_e5m2fnuz, ml_dtypes.float8_e8m0fnu)
}  # fmt: skip


class CutOff(Exception):
    """A file of a known format ends too early: so many bytes are there; how many should be."""

    def __init__(self, size: int, whole: str):
        super().__init__(f"it is cut off: {size:,} bytes are there, {whole}")


class Longer(Exception):
    """A file of a known format, whole, with something behind its end."""

    def __init__(self, size: int, whole: int):
        super().__init__(f"it ends after {whole:,} bytes, and {size:,} are there: {size - whole:,} too many")
        self.whole = whole


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """One array of a file, described but not read."""

    shape: tuple[int, ...]
    dtype: np.dtype
    """ml_dtypes' for bfloat16 and float8."""
    load: Callable[[], np.ndarray]
    """Reads an own, writable, contiguous array. InputError, naming the file, if it is damaged."""

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)


def is_numeric(dtype: np.dtype) -> bool:
    """Whether arrays of this type may be weights: booleans, integers and real floating point."""
    return dtype.kind in _KINDS or dtype in _FLOATS


def check_shape(shape: tuple[int, ...]) -> None:
    """ValueError unless these are dimensions: not negative, and few enough."""
    if len(shape) > MAX_DIMENSIONS or not all(type(n) is int and 0 <= n < 2**48 for n in shape):
        raise ValueError("a shape that no array can have")


def from_bytes(data: np.ndarray, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Writable u8[n] -> array over the same memory; a Boolean is True where its byte isn't 0."""
    if dtype == np.bool_:
        data = np.not_equal(data, 0)
    return data.view(dtype).reshape(shape)


def printable(text: object) -> str:
    """Text of a file for a message: one line, of bounded length."""
    text = "".join(c if c.isprintable() else "?" for c in str(text)[: MAX_SHOWN + 1])
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."


@contextlib.contextmanager
def reading(where: object) -> Iterator[None]:
    """Every fault of the readers below it becomes an InputError that names the file."""
    try:
        yield
    except InputError:
        raise
    except CutOff as error:
        raise InputError(where, f"cannot be read ({error})", FETCH) from error
    except Longer as error:
        remedy = f"fetch it again, or cut off what is behind its end: truncate -s {error.whole} FILE"
        raise InputError(where, f"cannot be read ({error})", remedy) from error
    except MemoryError as error:
        raise InputError(where, "cannot be read (it asks for more memory than there is)", REMEDY) from error
    except Exception as error:  # A damaged file makes the readers fail in more ways than can be listed.
        lines = str(error).splitlines() or [type(error).__name__]
        raise InputError(where, f"cannot be read ({printable(lines[0])})", REMEDY) from error
