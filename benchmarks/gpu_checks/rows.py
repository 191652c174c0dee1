"""What parts report: rows, what they say in words, and the ratios between those that are speeds."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

PER_FRAME = "host to host, p50"
"""What a row is called that says how fast a network is: from frames in the host's memory to masks there, a frame."""
FAULTS = ("failed", "out of time", "worker died", "no worker")
"""What a row is called that stands for results which are missing."""
_SPEED = re.compile(rf"(\w+)_(\w+) (float32|bfloat16), (.+): {PER_FRAME}")
_BASES = ("clip by clip", "PyTorch eager", "PyTorch compiled")
"""What engines are compared with, of the same backbone and type; the fastest batch of each."""


class Row(NamedTuple):
    """A result of a part: what it is, in which unit, and what else there is to say. False is a check that was not
    passed."""

    part: str
    what: str
    value: float | bool | str
    unit: str = ""
    note: str = ""

    @property
    def wrong(self) -> bool:
        return self.value is False or self.what in FAULTS

    @property
    def shown(self) -> str:
        """The value and its unit."""
        value = self.value
        if isinstance(value, bool):
            return "yes" if value else "NO"
        if isinstance(value, float):
            value = f"{value:.1e}" if value and abs(value) < 1e-3 else f"{value:,.3f}"
        return f"{value} {self.unit}".strip()

    @property
    def line(self) -> str:
        """The row of a table in Markdown."""
        cells = (self.part, self.what, self.shown, self.note)
        return "| " + " | ".join(" ".join(str(cell).split()).replace("|", "/") for cell in cells) + " |"


HEADER = "| part | what | value | note |\n|---|---|---|---|"


def speed(network: str, dtype: str, engine: str) -> str:
    """How the rows of an engine begin."""
    return f"{network} {dtype}, {engine}"


def ratios(rows: Iterable[Row]) -> Iterator[Row]:
    """How many times as fast the engines are as clip by clip, and as PyTorch's SegFormer, which mines nothing."""
    found = ((_SPEED.fullmatch(row.what), row.value) for row in rows)
    speeds = {match.groups(): float(ms) for match, ms in found if match}
    ours = [key for key in speeds if key[0] != "segformer"]
    for (family, *alike, engine), base in itertools.product(ours, _BASES):
        of = ["segformer" if base.startswith("PyTorch") else family, *alike]
        bases = {name: ms for (*key, name), ms in speeds.items() if key == of and re.sub(r" x\d+$", "", name) == base}
        if bases and engine != base:
            fastest = min(bases, key=bases.__getitem__)
            ratio = bases[fastest] / speeds[family, *alike, engine]
            yield Row("ratios", speed(f"{family}_{alike[0]}", alike[1], engine), ratio, f"x {fastest}")
