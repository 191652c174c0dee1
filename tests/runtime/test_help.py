"""``--help``: the common options, with defaults that say something; ``--help-all``: every one."""

import dataclasses
import re
from typing import Literal

import pytest
import tyro

from cffm_jax.commands import eval as evaluation
from cffm_jax.commands import train
from cffm_jax.commands.train import TrainOptions
from cffm_jax.evaluation.options import EvalOptions
from cffm_jax.rules import values
from cffm_jax.runtime.command_line import parse_command


@pytest.mark.parametrize(
    ("command", "options"), [(train, TrainOptions), (evaluation, EvalOptions)], ids=["train", "eval"]
)
def test_help_has_the_common_options_and_help_all_every_one(command, options, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    names = [name.removeprefix("settings.") for name in values(options())]
    main, shown = getattr(command, f"{command.__name__.rpartition('.')[2]}_command"), {}
    for asked in ("--help", "--help-all"):
        with pytest.raises(SystemExit) as caught:
            main([asked])
        assert not caught.value.code
        text = capsys.readouterr().out
        shown[asked] = [name for name in names if re.search(rf"^  --{re.escape(name.replace('_', '-'))}\b", text, re.M)]
        lines = text.splitlines()
        assert max(map(len, lines)) < 80 and "(default: )" not in text and "''" not in text
        assert len(lines) <= 85 or asked == "--help-all"
    assert len(names) > 40 and shown["--help-all"] == names
    assert sorted(shown["--help"]) == sorted({*command.COMMON, *(name for name in names if "." not in name)})


def test_help_tells_flags_numbers_defaults_and_sections(capsys):
    @dataclasses.dataclass(frozen=True)
    class Section:
        """Of a part."""

        times: tuple[int, ...] = (1, 2)
        """When,
        in seconds."""
        names: tuple[str, ...] = ()
        """Any."""
        end: float | None = None
        """Where to end."""

    @dataclasses.dataclass
    class Options:
        files: tyro.conf.Positional[tuple[str, ...]]
        """To read."""
        way: Literal["a", "b"] = "a"
        """Which."""
        keep: bool = True
        """Keeps it."""
        drop: bool = False
        """Drops it."""
        part: Section = Section()

    with pytest.raises(SystemExit):
        parse_command(Options, ["-h"], lambda _: Options(()), "Does it.")
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()[1:]]
    assert [line for line in lines if line] == [
        "Does it.", "options", "FILES ... To read.", "--way {a,b} Which. (default: a)",
        "--keep, --no-keep Keeps it. (default: on)", "--drop Drops it.", "part", "Of a part.",
        "--part.times INT ... When, in seconds. (default: 1 2)", "--part.names STR ... Any.",
        "--part.end FLOAT Where to end.",
    ]  # fmt: skip
