"""One computation in two forms: that for CPUs, and that for all other platforms.

Which one is compiled shows when a program is lowered, so that one traced program serves all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Literal

import jax

Form = Literal["cpu", "default"]
_only: ContextVar[Form | None] = ContextVar("only", default=None)


def by_platform(*operands: Any, cpu: Callable[..., Any], default: Callable[..., Any]) -> Any:
    """What the form of the platform gives of the operands; both give arrays of the same shapes."""
    forms = {"cpu": cpu, "default": default}
    only = _only.get()
    return forms[only](*operands) if only else jax.lax.platform_dependent(*operands, **forms)


@contextlib.contextmanager
def only(form: Form) -> Iterator[None]:
    """Has what is traced within take one form: for a converter that knows no platforms, and for
    tests of the other. A function that JAX has traced already stays as it is."""
    token = _only.set(form)
    try:
        yield
    finally:
        _only.reset(token)
