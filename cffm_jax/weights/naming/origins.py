"""Whose weights a file holds: an encoder's origin and its method's, laid together, as their data
say. What no rule asks for and no pattern calls dead is an error of the conversion."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from cffm_jax.models.create import FOREIGN_NAMES
from cffm_jax.models.encoders import names as encoders
from cffm_jax.models.foreign.names import HeadOrigin, MethodNames, Origin, Sources, sources_of

ENCODER = encoders.ENCODER
BACKBONE = "backbone."
"""Start of the released keys of an encoder in whole models."""

_COUNTERS = r".*\.num_batches_tracked"
"""Counters of torch's BatchNorm: they carry nothing."""


class Naming(NamedTuple):
    """Names of all weights in the files of an encoder's origin.

    Attributes:
      origin: of the encoder.
      method: whose head it is; None for files of an encoder alone.
    """

    origin: Origin
    method: MethodNames | None = None

    @property
    def head(self) -> HeadOrigin | None:
        return self.method.origins.get(self.origin.heads) if self.method else None

    def name(self, family: str) -> str:
        """Name of a file with an encoder, or with a model of a family."""
        names = self.head.names if self.head else {}
        whole = self.origin.whole or names.get(family) or names.get("")
        return self.origin.name if family == ENCODER or not whole else whole

    @property
    def settings(self) -> dict[str, Any]:
        """Fields of ``ModelConfig``: what such models compute differently."""
        return {**self.origin.settings, **(self.head.settings if self.head else {})}

    def sources(self, released: str) -> Sources | None:
        """The file's keys that make a released one, and how; None where this origin has none."""
        if not released.startswith(BACKBONE):
            return sources_of(self.head.rules, released) if self.head else None
        sources = sources_of(self.origin.rules, released.removeprefix(BACKBONE))
        return sources and (tuple(self.origin.prefix + key for key in sources[0]), sources[1])

    def is_dead(self, key: str) -> bool:
        """Whether a key of such a file carries nothing that the models compute with."""
        patterns = (_COUNTERS, *self.origin.dead, *(self.head.dead if self.head else ()))
        return any(re.fullmatch(pattern, key) for pattern in patterns)


def known_names() -> list[str]:
    """Names of the kinds of files that are read here."""
    known = []
    for origin in encoders.origins():
        heads = [method.origins[origin.heads] for method in FOREIGN_NAMES if origin.heads in method.origins]
        whole = [origin.whole] if origin.whole else [name for head in heads for name in head.names.values()]
        known += [origin.name, *whole]
    return list(dict.fromkeys(known))
