"""Optimised HLO as XLA prints it, as objects: computations of instructions with shapes, operands and attributes."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

_BITS = {"pred": 8, "token": 0, "opaque": 0}
"""Of a number, for the types whose names do not say so."""
_ARRAY = re.compile(r"\b([a-z]+\d*(?:e\dm\d\w*)?)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = ")
_NAME = re.compile(r"%([\w.\-]+)")


class Array(NamedTuple):
    """An array's type, in XLA's words, and its dimensions."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        bits = _BITS[self.dtype] if self.dtype in _BITS else int(re.findall(r"\d+", self.dtype)[0])
        return -(-self.elements * bits // 8)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


def arrays(shape: str) -> tuple[Array, ...]:
    """The arrays of a shape as HLO spells it, those of a tuple in their order.

    Examples:
      >>> arrays("(f32[2,3]{1,0}, pred[])")
      (Array(dtype='f32', dims=(2, 3)), Array(dtype='pred', dims=()))
    """
    return tuple(
        Array(dtype, tuple(int(side) for side in sides.split(",") if side)) for dtype, sides in _ARRAY.findall(shape)
    )


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: unique in the program.
      opcode: XLA's, for example ``fusion``.
      arrays: of its result.
      operands: names of instructions of the same computation.
      attributes: what follows the operands, as it is printed.
      number: of a parameter; else -1.
      root: whether it is the computation's result.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    number: int
    root: bool

    @property
    def elements(self) -> int:
        return sum(array.elements for array in self.arrays)

    @property
    def bytes(self) -> int:
        return sum(array.bytes for array in self.arrays)

    @property
    def shape(self) -> str:
        words = ", ".join(map(str, self.arrays))
        return words if len(self.arrays) == 1 else f"({words})"

    @property
    def op_name(self) -> str:
        """Where JAX's program asked for it: ``jit(step)/encoder/stage1/dot_general``; "" if XLA does not tell."""
        found = re.search(r'op_name="((?:[^"\\]|\\.)*)"', self.attributes)
        return found[1].replace("\\'", "'") if found else ""

    @property
    def target(self) -> str:
        """What a custom call calls, for example ``__cublas$gemm``; "" for other instructions."""
        found = re.search(r'custom_call_target="([^"]*)"', self.attributes)
        return found[1] if found else ""

    def attribute(self, key: str) -> str:
        """The word behind ``key=``, without %; "" if there is none."""
        found = re.search(rf"\b{key}=%?([\w.\-]+)", self.attributes)
        return found[1] if found else ""

    def listed(self, key: str) -> tuple[str, ...]:
        """What ``key={...}`` lists, without %."""
        found = re.search(rf"\b{key}=\{{([^{{}}]*)\}}", self.attributes)
        return tuple(word.strip().removeprefix("%") for word in found[1].split(",") if word) if found else ()

    @functools.cached_property
    def backend(self) -> dict[str, Any]:
        """What the compiler noted for itself (``backend_config``)."""
        _, there, config = self.attributes.partition("backend_config={")
        return json.JSONDecoder().raw_decode(f"{{{config}")[0] if there else {}

    @property
    def trips(self) -> int | None:
        """How often a loop's body runs; None if XLA does not know."""
        known = self.backend.get("known_trip_count")
        return int(known["n"]) if known else None

    @property
    def called(self) -> tuple[str, ...]:
        """The computations that run when it does: a loop's body, all branches, what is called."""
        if self.opcode == "while":
            return (self.attribute("body"),)
        if self.opcode == "conditional":
            branches = self.listed("branch_computations")
            return branches or (self.attribute("true_computation"), self.attribute("false_computation"))
        if self.opcode == "call":
            return (self.attribute("to_apply"),)
        inside = self.attribute("calls")
        return (inside,) if inside else ()


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions by name, in the order in which they run."""

    name: str
    instructions: dict[str, Instruction]

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.instructions.values())

    def __getitem__(self, name: str) -> Instruction:
        return self.instructions[name]

    @functools.cached_property
    def root(self) -> Instruction:
        return next(each for each in self if each.root)

    @functools.cached_property
    def parameters(self) -> dict[int, Instruction]:
        return {each.number: each for each in self if each.opcode == "parameter"}

    def operands(self, instruction: Instruction) -> tuple[Instruction, ...]:
        return tuple(self.instructions[name] for name in instruction.operands)


@dataclasses.dataclass(frozen=True)
class Module:
    """A program: its computations by name, and the one that is run."""

    computations: dict[str, Computation]
    entry: Computation

    def __getitem__(self, name: str) -> Computation:
        return self.computations[name]


def parse(text: str) -> Module:
    """Reads ``compiled.as_text()``.

    Raises:
      ValueError: it holds no program.
    """
    computations: dict[str, Computation] = {}
    entry = current = None
    for line in text.splitlines():
        if current is None:
            if found := _COMPUTATION.match(line):
                current = Computation(found[2], {})
                computations[current.name] = current
                entry = current if found[1] else entry
        elif line.startswith("}"):
            current = None
        elif instruction := _instruction(line):
            current.instructions[instruction.name] = instruction
    if entry is None:
        raise ValueError("no computation is marked ENTRY: this is no HLO of a program")
    return Module(computations, entry)


def _instruction(line: str) -> Instruction | None:
    """Of a line ``  ROOT %name = shape opcode(operands), attributes``; None for others."""
    head = _INSTRUCTION.match(line)
    if head is None:
        return None
    start = head.end()
    end = _closing(line, start) + 1 if line[start] == "(" else line.index(" ", start)
    opening = line.index("(", end)
    closing = _closing(line, opening)
    opcode, operands = line[end:opening].strip(), line[opening + 1 : closing]
    return Instruction(
        name=head[2],
        opcode=opcode,
        arrays=arrays(line[start:end]),
        operands=() if opcode in ("constant", "parameter") else tuple(_NAME.findall(operands)),
        attributes=line[closing + 1 :],
        number=int(operands) if opcode == "parameter" else -1,
        root=bool(head[1]),
    )


def _closing(line: str, opening: int) -> int:
    """Where the parenthesis that opens there is closed; the line's end if it is not (a constant's text)."""
    depth = 0
    for found in re.finditer(r"[()]", line[opening:]):
        depth += 1 if found[0] == "(" else -1
        if not depth:
            return opening + found.start()
    return len(line)
