"""Command lines: options onto defaults, and every fault as one line with its exit status."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import io
import itertools
import os
import re
import signal
import sys
import typing
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from cffm_jax.errors import InputError, Stopped
from cffm_jax.rules import earlier_names, local_path, option_name, renamed_in_words, values, with_changes, with_paths
from cffm_jax.runtime.devices import device_fault
from cffm_jax.runtime.help import Option, docstrings, help_text, metavar_in_words

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
_HELP_ALL = "--help-all"
_HELP = {"-h", "--help", _HELP_ALL}
_OPTION = re.compile(r"--|-[A-Za-z]")
_POSITIONAL = typing.get_args(tyro.conf.Positional[str])[1]


class CommandLine(Generic[T]):
    """A command's options as they were given: parsed once, before their defaults are known.

    Args:
      cls: dataclass of the options; those of its section ``settings`` lack a prefix: --train.steps.
      argv: the arguments without the program's name.
      description: first lines of ``--help``.
      common: options of sections that ``--help`` shows, all others being left to ``--help-all``;
        (): it shows all.

    Raises:
      InputError: an option is unknown or cannot be read.

    Attributes:
      given: the values that were given, by dotted name.
      config: the file that ``--config`` names, "" without one.
    """

    def __init__(self, cls: type[T], argv: Sequence[str], description: str | None, common: Collection[str] = ()):
        self._cls, self._description = cls, description or ""
        self._kinds = dict(_kinds(cls))
        # tyro leaves out of a TypedDict what may be missing and was not given, so its result is no
        # more than the arguments. It tells its faults on the terminal alone: what a value has wrong
        # is therefore said by `_read`, an unknown option by us, and tyro, told to be silent, exits
        # for nothing but an option without its values.
        try:
            self.given, unknown = tyro.cli(
                _given(cls),
                args=list(argv),
                return_unknown_args=True,
                add_help=False,
                console_outputs=False,
            )
        except SystemExit as error:
            raise self._lacks_values(argv) from error
        self._help = bool(_HELP & set(unknown))
        self._common = () if _HELP_ALL in unknown else common
        if unknown and not self._help:
            raise self._unknown(unknown[0])

    @property
    def config(self) -> str:
        return local_path("--config", self.given.get("config", ""))

    def over(self, default: T) -> T:
        """The options: those that were given on top of a default, with ``~`` expanded in paths.
        Prints the help, with these defaults, and exits if it was asked for.

        Raises:
          InputError: one that the default leaves open is missing, or a path is an address.
        """
        if self._help:
            about = dict(_about(self._cls))
            print(help_text(_program(), self._description, _options(default), self._common, about))
            sys.exit()
        paths = {_shown(path): path for path in values(default)}
        options = with_changes(default, [(paths[name], value) for name, value in self.given.items()])
        for name, value in values(options).items():
            if value is tyro.MISSING:
                raise InputError("command line", f"{name.upper()} is missing", "see --help")
        return with_paths(options, self._called)

    def _called(self, path: str) -> str:
        """What messages call the option at a dotted path."""
        name = _shown(path)
        return name.upper() if _is_positional(self._kinds[name]) else option_name(name)

    def _lacks_values(self, argv: Sequence[str]) -> InputError:
        """What tyro has refused: it does not say which option it was."""
        for i, argument in enumerate(argv):
            option, joined, _ = argument.partition("=")
            kind = self._kinds.get(option.removeprefix("--").replace("-", "_"), bool)
            needs = 0 if kind is bool or not option.startswith("--") else _spec(kind).nargs
            following = list(itertools.takewhile(lambda word: not _OPTION.match(word), argv[i + 1 :]))
            if isinstance(needs, int) and len(following) + bool(joined) < needs:
                if option == "--config":
                    return InputError(option, "needs a file", "name one of configs/*.py")
                return InputError("command line", f"{option} needs {needs} value{'s' * (needs > 1)}", "see --help")
        return InputError("command line", "an option lacks its value", "see --help")

    def _unknown(self, argument: str) -> InputError:
        asked = argument.split("=")[0].replace("-", "_")
        for earlier, now in earlier_names(self._cls).items():
            if asked == f"__{_shown(earlier)}":
                problem, remedy = renamed_in_words(_shown(now)), "give it by this name, in this order"
                return InputError(argument.split("=")[0], problem, remedy)
        places = {f"__{name}": name.upper() for name, kind in self._kinds.items() if _is_positional(kind)}
        if asked in places:
            return InputError(argument, f"is no option: {places[asked]} is given without a name", "see --help")
        named = [name for name in map("__{}".format, self._kinds) if name not in places]
        close = difflib.get_close_matches(asked, named, n=1, cutoff=0.6)
        remedy = f"did you mean {close[0].replace('_', '-')}?" if close else "see --help"
        return InputError(argument, "is no option or config key", remedy)


def parse_command(cls: type[T], argv: Sequence[str], make_default: Callable[[str], T], description: str | None) -> T:
    """Options on top of the defaults that ``--config`` gives: a `CommandLine` of these arguments.

    Args:
      make_default: from the value of ``--config`` ("" if absent) to the defaults.

    Raises:
      InputError: an option is unknown, missing, or cannot be read.
    """
    line = CommandLine(cls, argv, description)
    return line.over(make_default(line.config))


def _shown(path: str) -> str:
    """The name on the command line of the option at a dotted path."""
    return path.removeprefix("settings.")


def _kinds(cls: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Name and annotated type of each option."""
    for name, kind in typing.get_type_hints(cls, include_extras=True).items():
        section = typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind
        if dataclasses.is_dataclass(section):
            yield from _kinds(typing.cast(type, section), _shown(f"{prefix}{name}."))
        else:
            yield prefix + name, kind


def _program() -> str:
    """The command as it was called: train.py, or python -m and a module."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name.removesuffix('.__main__')}" if spec else os.path.basename(sys.argv[0])


def _about(cls: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The docstring of each option, by dotted name, and of each section, by its own."""
    for name, words in docstrings(cls).items():
        yield (_shown(prefix + name) if name else prefix[:-1]), words
    for name, kind in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(kind):
            yield from _about(typing.cast(type, kind), _shown(f"{prefix}{name}."))


def _options(default: Any) -> Iterator[Option]:
    """All options, with what ``--help`` says of them."""
    about, kinds = dict(_about(type(default))), dict(_kinds(type(default)))
    for path, value in values(default).items():
        name = _shown(path)
        kind, value = kinds[name], None if value is tyro.MISSING else value
        metavar = "" if kind is bool else metavar_in_words(_spec(kind).metavar)
        yield Option(name, metavar, value, about.get(name, ""), _is_positional(kind))


def _is_positional(kind: Any) -> bool:
    return _POSITIONAL in getattr(kind, "__metadata__", ())


@functools.cache
def _given(cls: type) -> Any:
    """The type of the options that were given, as tyro reads it."""
    options = {name: _as_option(name, kind) for name, kind in _kinds(cls)}
    return typing.TypedDict("Given", options, total=False)  # pyrefly: ignore[not-callable]  # Known at run time alone.


def _spec(kind: Any) -> PrimitiveConstructorSpec:
    """How tyro reads the values of a type."""
    spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kind, set()))
    assert isinstance(spec, PrimitiveConstructorSpec), f"an option cannot have the type {kind}"
    return spec


def _as_option(name: str, kind: Any) -> Any:
    named = Annotated[kind, tyro.conf.arg(name=name)]
    if kind is bool:  # A flag: it has no value that could be read.
        return named
    spec = _spec(kind)
    return Annotated[
        named, dataclasses.replace(spec, choices=None, instance_from_str=functools.partial(_read, name, spec))
    ]


def _read(name: str, spec: PrimitiveConstructorSpec, words: list[str]) -> Any:
    """The value of an option. InputError if it is none of its type."""
    for word in words:
        if spec.choices and word not in spec.choices:
            raise InputError("command line", f"{option_name(name)} is {word}", f"give one of {', '.join(spec.choices)}")
    try:
        return spec.instance_from_str(words)
    except (ValueError, TypeError) as error:
        raise InputError("command line", f"{option_name(name)} is {' '.join(words)}", f"give {spec.metavar}") from error


def run_command(main: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None) -> int:
    """Runs a command, which may return its exit status.

    An ``InputError`` becomes one line on standard error and 2, as do a standard output that cannot
    be written, devices that are not there and memory that is too small (`device_fault`); a signal
    becomes one and 128 + its number, which is SIGPIPE when the reader of standard output, such as
    ``head``, has left. What standard output cannot encode, such as the name of a video, is escaped,
    as it is on standard error.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = main(sys.argv[1:] if argv is None else argv) or 0
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except (InputError, Stopped) as error:
        return _report(error)
    except KeyboardInterrupt:
        return _report(Stopped(signal.SIGINT))
    except OSError:
        fault = _fault_of_output()
        if fault is None:
            raise
        if isinstance(fault, BrokenPipeError):
            return _report(Stopped(signal.SIGPIPE))
        return _report(InputError("standard output", f"cannot be written ({fault.strerror})", "lead it elsewhere"))
    except (RuntimeError, AssertionError, MemoryError) as error:
        refused = device_fault(error)
        if refused is None:
            raise
        return _report(refused)


def _report(error: InputError | Stopped) -> int:
    """Prints the reason why a command ended, and returns its exit status."""
    refused = isinstance(error, InputError)
    print(f"error: {error}" if refused else error, file=sys.stderr)
    return 2 if refused else error.status


def _fault_of_output() -> OSError | None:
    """What is wrong with standard output, which then is made to raise no further error at exit."""
    try:
        print(flush=True)  # What failed to be written is dropped: only another line shows it.
    except OSError as fault:
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), sys.stdout.fileno())
        return fault
    return None


def leave(status: int) -> typing.NoReturn:
    """Ends the process with the exit status of `run_command`.

    After a signal without Python's clearing up: XLA may be compiling yet, in threads that Python
    would wait for, and that crash as it takes away what they work on.
    """
    if status > 128:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            with contextlib.suppress(OSError):  # Nobody reads it any more.
                stream.flush()
        os._exit(status)
    sys.exit(status)
