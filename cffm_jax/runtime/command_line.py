"""Command lines: options onto defaults, and every fault as one line with its exit status."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import io
import os
import re
import signal
import sys
import typing
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

from cffm_jax.errors import InputError, Stopped

T = TypeVar("T")


def parse_command(cls: type[T], argv: Sequence[str], make_default: Callable[[str], T], description: str | None) -> T:
    """Parses a command's options onto the defaults that its ``--config FILE`` gives.

    Args:
      cls: dataclass of the command's options, with a field ``config: str``.
      argv: the arguments without the program's name.
      make_default: from the value of ``--config`` ("" if absent) to the defaults.
      description: first lines of ``--help``.

    Raises:
      InputError: an option is unknown or cannot be read.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--config", default="")
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            known = early.parse_known_args(list(argv))[0]
    except SystemExit as error:
        raise InputError("--config", "needs a file", "name one of configs/*.py") from error
    default = make_default(known.config)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            value, unknown = tyro.cli(
                cls, args=list(argv), default=default, description=description, return_unknown_args=True
            )
    except SystemExit as error:
        if not error.code:
            raise
        raise InputError("command line", _one_line(said.getvalue()), "see --help") from error
    if unknown:
        close = difflib.get_close_matches(unknown[0].split("=")[0].replace("-", "_"), _options(cls), n=1, cutoff=0.6)
        raise InputError(
            unknown[0],
            "is no option or config key",
            f"did you mean {close[0].replace('__', '--', 1)}?" if close else "see --help",
        )
    return value


def _options(cls: type, prefix: str = "__") -> list[str]:
    names = []
    for key, kind in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(kind):
            names += _options(kind, prefix if key == "settings" else f"{prefix}{key}.")
        else:
            names.append(prefix + key)
    return names


def _one_line(box: str) -> str:
    """The words of tyro's framed error, without the frame, a terminal's colours and the pointers to the help."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [re.sub(r"[│╭╮╰╯─┌┐└┘|]", " ", line).strip() for line in plain.splitlines()]
    lines = [line for line in lines if line and not line.startswith(("For full helptext", "Parsing error"))]
    return " ".join(" ".join(lines).split()).rstrip(".") or "cannot be read"


def run_command(main: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None) -> int:
    """Runs a command, which may return its exit status.

    An ``InputError`` becomes one line on standard error and 2, as does a standard output that cannot be written; a
    signal becomes one and 128 + its number, which is SIGPIPE when the reader of standard output, such as ``head``, has
    left. What standard output cannot encode, such as the name of a video, is escaped, as it is on standard error.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = main(sys.argv[1:] if argv is None else argv) or 0
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except (InputError, Stopped) as error:
        return _told(error)
    except KeyboardInterrupt:
        return _told(Stopped(signal.SIGINT))
    except OSError:
        fault = _fault_of_output()
        if fault is None:
            raise
        if isinstance(fault, BrokenPipeError):
            return _told(Stopped(signal.SIGPIPE))
        return _told(InputError("standard output", f"cannot be written ({fault.strerror})", "lead it elsewhere"))


def _told(error: InputError | Stopped) -> int:
    """The exit status of what ended a command, which it tells."""
    refused = isinstance(error, InputError)
    print(f"error: {error}" if refused else error, file=sys.stderr)
    return 2 if refused else error.status


def _fault_of_output() -> OSError | None:
    """What is wrong with standard output, which is then of no use but for no further error at the exit."""
    try:
        print(flush=True)  # What failed to be written is dropped: only another line shows it.
    except OSError as fault:
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), sys.stdout.fileno())
        return fault
    return None


def leave(status: int) -> typing.NoReturn:
    """Ends the process with the exit status of `run_command`.

    After a signal without Python's clearing up: XLA may be compiling yet, in threads that Python would wait for, and
    that crash as it takes away what they work on.
    """
    if status > 128:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            with contextlib.suppress(OSError):  # Nobody reads it any more.
                stream.flush()
        os._exit(status)
    sys.exit(status)
