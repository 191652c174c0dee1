"""Functions that a converter has an operator for, as one equation of a traced program.

While a converter traces (``shown``), a call of such a function is an equation "operator" with the
function's name, its arguments that are no arrays, and its program, for one that knows no such
operator. At all other times it is a call.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import jax
import numpy as np
from jax.extend.core import Primitive

_shown: ContextVar[bool] = ContextVar("shown", default=False)

operator_p = Primitive("operator")
"""Parameters: ``name``; ``static``, pairs of names and values; ``program``, a closed jaxpr."""
operator_p.def_abstract_eval(lambda *_, program, **__: program.out_avals[0])


def operator(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """A function of arrays, and of settings that are no arrays, to one array: as an operator."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args, **kwargs) -> jax.Array:
        if not _shown.get():
            return function(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arrays, static = {}, {}
        for name, value in bound.arguments.items():
            (arrays if isinstance(value, (jax.Array, np.ndarray)) else static)[name] = value
        program = jax.make_jaxpr(lambda *values: function(**static, **dict(zip(arrays, values))))(*arrays.values())
        return operator_p.bind(*arrays.values(), name=function.__name__, static=tuple(static.items()), program=program)

    return call


@contextlib.contextmanager
def shown() -> Iterator[None]:
    """Has operators that are traced within show as such."""
    token = _shown.set(True)
    try:
        yield
    finally:
        _shown.reset(token)
