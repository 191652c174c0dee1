"""What a target's window reads of each reference, by the settings.

python -m cffm_jax.tables.contexts --receptive 49 20 6 --pooling 7 4 2 --pooling_rule paper
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import Literal

from cffm_jax.config import ModelConfig, check_model
from cffm_jax.models.cffa import WINDOW
from cffm_jax.models.methods.cffm import CONTEXTS
from cffm_jax.runtime.command_line import parse_command, run_command


@dataclasses.dataclass(frozen=True)
class Options:
    receptive: tuple[int, ...] = ModelConfig.receptive
    """r of the references, oldest first."""
    pooling: tuple[int, ...] = ModelConfig.pooling
    """p of the references."""
    pooling_rule: Literal["release", "paper"] = ModelConfig.pooling_rule
    """See --model.pooling_rule of train.py."""


def markdown(options: Options) -> str:
    """A row for each reference, in positions of the stride-8 map. InputError: r or p cannot be."""
    settings = dataclasses.replace(ModelConfig(), **dataclasses.asdict(options))
    check_model(settings)
    heads = ["reference", "r", "p", "tokens", "kernel", "region", "from", "to", "off the middle"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    sources = CONTEXTS[options.pooling_rule](options.receptive, options.pooling)
    for source, r, p in zip(sources, options.receptive, options.pooling, strict=True):
        first, end = source.field
        side, off = end - first, (first + end - WINDOW) / 2
        cells = (source.name, r, p, f"{source.reach}x{source.reach}", f"{side / source.reach:g}", f"{side:g}")
        lines.append("| " + " | ".join(map(str, (*cells, f"{first:g}", f"{end:g}", f"{off:g}"))) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    """Prints what a target's 7x7 window reads of each reference: tokens, the side of a token's
    kernel, the side of the region, where it begins and ends from the window's first position, and
    how far its middle lies from the window's."""
    print(markdown(parse_command(Options, argv, lambda _: Options(), main.__doc__)))


if __name__ == "__main__":
    sys.exit(run_command(main))
