"""Pickles read as data: opcodes are interpreted here; nothing is imported, called or built.

Python's own unpickler is not used, not even one that imports nothing: a pickle of some bytes makes
it reserve memory by the gigabyte (a memo index of 2**32), or overflows the C stack (the hash of a
deep tuple), and neither can be caught. The standard library's ``pickletools`` splits the opcodes;
what each of them does to the stack is below.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from pickle import UnpicklingError
from typing import Any, BinaryIO

MAX_BYTES = 256 << 20
"""Of one pickle. 10,000 tensors with their optimizer take 4 MB, mmengine's full logs tens of MB."""

MAX_OPCODES = 4_000_000
"""Of one pickle: some seconds. 10,000 tensors with their optimizer take 1.3 million."""


HOSTILE = frozenset(
    "os posix nt subprocess pty sys importlib runpy shutil socket ctypes webbrowser commands popen2 asyncio code pip"
    " pdb timeit pickle _pickle".split()
)
"""Modules that no weights need. Nothing of them would be called either, but a file that names one
is not to be trusted, and its user is told."""

_HOSTILE_BUILTINS = frozenset("eval exec execfile compile open file __import__ input breakpoint".split())


class Name:
    """A class or a function by its name, which is all that is ever known of it."""

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name
        hostile = module in ("builtins", "__builtin__") and name in _HOSTILE_BUILTINS
        if hostile or not HOSTILE.isdisjoint((module.split(".")[0], *name.split(".")[:-1])):
            raise UnpicklingError(f"it names {self}, which can run programs: do not trust it")

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Inert:
    """Stands for an object of a class that is not known here; its content is dropped."""

    __slots__ = ("kind",)

    def __init__(self, kind: str):
        self.kind = kind


class Pairs:
    """(key, value) pairs of a dictionary, in order; keys may be anything and are never hashed."""

    __slots__ = ("items",)

    def __init__(self, items: list[tuple[Any, Any]]):
        self.items = items

    def named(self) -> dict[str, Any]:
        """Those whose keys are strings."""
        return {key: value for key, value in self.items if type(key) is str}


_PUSHES = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8"
    " BYTEARRAY8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 FLOAT BINFLOAT".split()
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))
_GETS = frozenset(("GET", "BINGET", "LONG_BINGET"))


class _Limited:
    """A file of which some bytes at most can be read; a count in the file cannot ask for more."""

    def __init__(self, file: BinaryIO, limit: int):
        self._file, self._left = file, limit

    def read(self, count: int) -> bytes:
        data = self._file.read(min(count, self._left))
        self._left -= len(data)
        return data

    def readline(self) -> bytes:
        data = self._file.readline(self._left)
        self._left -= len(data)
        return data


def interpret(
    file: BinaryIO,
    limit: int,
    make: Callable[[Name, tuple], Any] = lambda name, _: Inert(str(name)),
    reference: Callable[[Any], Any] = lambda _: Inert("persistent object"),
) -> Any:
    """The object of the pickle at the file's position: plain values, lists, tuples, ``Pairs`` for
    dictionaries, ``Name`` and ``Inert`` for all that is not known.

    Args:
      file: left at the pickle's end.
      limit: bytes that are left in the file.
      make: (class or function, arguments) -> what a call of it yields.
      reference: persistent id -> what it stands for.

    Raises:
      UnpicklingError, ValueError: it is damaged, too large, or uses opcodes that no torch file has.
    """
    machine = _Machine(make, reference)
    limited = _Limited(file, min(limit, MAX_BYTES))
    opcodes = pickletools.genops(limited)  # pyrefly: ignore[bad-argument-type]  # It only calls read and readline.
    try:
        for count, (opcode, argument, _) in enumerate(opcodes):
            if count > MAX_OPCODES:
                raise UnpicklingError(f"its pickle has more than {MAX_OPCODES} opcodes")
            machine.step(opcode.name, argument, count)
        return machine.stack.pop()
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        raise UnpicklingError("its pickle is damaged") from error


class _Machine:
    def __init__(self, make: Callable[[Name, tuple], Any], reference: Callable[[Any], Any]):
        self.stack: list[Any] = []
        self._make, self._reference = make, reference
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any, count: int) -> None:
        """One opcode, the ``count``-th; the most usual ones first."""
        stack = self.stack
        if name in _PUTS:
            # Picklers number in order; far-flung indices would only serve to make the memo slow.
            if not 0 <= argument <= count:
                raise UnpicklingError("its pickle is damaged")
            self._memo[argument] = stack[-1]
        elif name in _GETS:
            stack.append(self._memo[argument])
        elif name in _PUSHES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _SHORT_TUPLES:
            size = _SHORT_TUPLES[name]
            stack[-size:] = [tuple(self._top(size))]
        elif name == "MARK":
            self._below.append(stack)
            self.stack = []
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name not in ("PROTO", "FRAME", "STOP"):
            self._less_usual(name, argument)

    def _less_usual(self, name: str, argument: Any) -> None:
        match name:
            case "TUPLE":
                self._replace_marked(tuple)
            case "LIST" | "FROZENSET":
                self._replace_marked(list)
            case "DICT":
                self._replace_marked(lambda items: Pairs(_paired(items)))
            case "EMPTY_LIST" | "EMPTY_SET":
                self.stack.append([])
            case "EMPTY_DICT":
                self.stack.append(Pairs([]))
            case "APPEND":
                self._extend([self.stack.pop()])
            case "APPENDS" | "ADDITEMS":
                self._extend(self._marked())
            case "SETITEM":
                value = self.stack.pop()
                self._update([self.stack.pop(), value])
            case "SETITEMS":
                self._update(self._marked())
            case "POP":
                self.stack.pop() if self.stack else self._marked()
            case "POP_MARK":
                self._marked()
            case "DUP":
                self.stack.append(self.stack[-1])
            case "BINPERSID":
                self.stack.append(self._reference(self.stack.pop()))
            case _:
                self._object(name, argument)

    def _object(self, name: str, argument: Any) -> None:
        stack = self.stack
        match name:
            case "GLOBAL":
                stack.append(Name(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                module, attribute = self._top(2)
                if type(module) is not str or type(attribute) is not str:
                    raise UnpicklingError("its pickle is damaged")
                stack[-2:] = [Name(module, attribute)]
            case "REDUCE" | "NEWOBJ":
                stack[-2:] = [self._call(*self._top(2))]
            case "NEWOBJ_EX":
                stack[-3:] = [self._call(*self._top(3)[:2])]
            case "INST":
                self._replace_marked(lambda items: self._call(Name(*argument.split(" ", 1)), tuple(items)))
            case "OBJ":
                self._replace_marked(lambda items: self._call(items[0], tuple(items[1:])))
            case "BUILD":
                self._top(2)
                stack.pop()  # The state of an object, which is never set.
            case _:
                raise UnpicklingError(f"its pickle uses {name}, which torch never writes")

    def _call(self, function: Any, arguments: Any) -> Any:
        if type(function) is Name and type(arguments) is tuple:
            return self._make(function, arguments)
        return Inert("object")

    def _top(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise UnpicklingError("its pickle is damaged")
        return self.stack[-count:]

    def _marked(self) -> list[Any]:
        """Takes the items above the last mark, and the mark."""
        items, self.stack = self.stack, self._below.pop()
        return items

    def _replace_marked(self, convert: Callable[[list[Any]], Any]) -> None:
        items = self._marked()
        self.stack.append(convert(items))

    def _extend(self, items: list[Any]) -> None:
        """Appends to the list on top; an object that is not known takes anything."""
        if type(self.stack[-1]) is list:
            self.stack[-1].extend(items)
        elif type(self.stack[-1]) is not Inert:
            raise UnpicklingError("its pickle is damaged")

    def _update(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is Pairs:
            self.stack[-1].items.extend(_paired(items))
        elif type(self.stack[-1]) is not Inert:
            raise UnpicklingError("its pickle is damaged")


def _paired(items: list[Any]) -> list[tuple[Any, Any]]:
    if len(items) % 2:
        raise UnpicklingError("its pickle is damaged")
    return list(zip(items[::2], items[1::2], strict=True))


MAX_PLAIN_VALUES = 20_000
"""Values that ``plain`` keeps of one entry: a dataset's classes and colours take some hundred."""

MAX_PLAIN_TEXT = 1 << 20
"""Characters that it keeps of one entry: mmengine's whole configuration takes some 50,000."""


class _TooMuch(Exception):
    """An entry is no plain value, or too large a one."""


def plain(value: Any) -> dict[str, Any]:
    """The entries of a dictionary that are plain throughout: str, int, float, bool, None, and
    lists, tuples and dictionaries of them; others, and any that are large or deep, are left out."""
    result = {}
    for key, entry in value.named().items() if type(value) is Pairs else ():
        try:
            result[key] = _plain(entry, [MAX_PLAIN_VALUES, MAX_PLAIN_TEXT], depth=8)
        except _TooMuch:
            continue
    return result


def _plain(value: Any, left: list[int], depth: int) -> Any:
    left[0] -= 1
    if type(value) is str:
        left[1] -= len(value)
    if min(*left, depth) < 0 or (type(value) is int and value.bit_length() > 64):
        raise _TooMuch
    if value is None or type(value) in (str, int, float, bool):
        return value
    if type(value) in (list, tuple):
        return type(value)(_plain(item, left, depth - 1) for item in value)
    if type(value) is Pairs and all(type(key) in (str, int, float, bool) for key, _ in value.items):
        return {_plain(key, left, depth - 1): _plain(item, left, depth - 1) for key, item in value.items}
    raise _TooMuch
