"""What a target's window reads of the target and each reference, by the settings.

python -m cffm_jax.tables.contexts --receptive 49 20 6 --pooling 7 4 2 --pooling-rule paper
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import Literal

from cffm_jax.config import ModelConfig
from cffm_jax.config.checks import check_model
from cffm_jax.models.contexts.centred import context_table
from cffm_jax.runtime.command_line import parse_command, run_command


@dataclasses.dataclass(frozen=True)
class Options:
    receptive: tuple[int, ...] = ModelConfig.receptive
    """r of the references, oldest first."""
    pooling: tuple[int, ...] = ModelConfig.pooling
    """p of the references."""
    pooling_rule: Literal["release", "paper"] = ModelConfig.pooling_rule
    """See --model.pooling-rule of train.py."""
    target_receptive: int = ModelConfig.target_receptive
    """r' of the target's own pooled tokens."""
    target_pooling: int = ModelConfig.target_pooling
    """p' of the target's own pooled tokens."""
    window: int = ModelConfig.window
    """s, side of the target's windows."""
    halo: int = ModelConfig.halo
    """Positions around a window that it reads of the target, unpooled."""


def markdown(options: Options) -> str:
    """A row for the target's own region, its pooled tokens and each reference, in positions of the
    stride-8 map. InputError: the settings cannot be."""
    settings = dataclasses.replace(ModelConfig(), **dataclasses.asdict(options))
    check_model(settings)
    heads = ["tokens of", "r", "p", "tokens", "kernel", "region", "from", "to", "off the middle"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    own = settings.window + 2 * settings.halo
    field = float(-settings.halo), float(settings.window + settings.halo)
    rows = [("target, unpooled", own, 1, own, *field)]
    receptive, pooling = (settings.target_receptive, *settings.receptive), (settings.target_pooling, *settings.pooling)
    for source, r, p in zip(context_table(settings), receptive, pooling, strict=True):
        rows.append((source.name, r, p, source.reach, *source.field))
    for name, r, p, reach, first, end in rows:
        side, off = end - first, (first + end - settings.window) / 2
        cells = (name, r, p, f"{reach}x{reach}", f"{side / reach:g}", f"{side:g}", f"{first:g}", f"{end:g}", f"{off:g}")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    """Prints what a target's window reads of the target and of each reference: tokens, the side of
    a token's kernel, the side of the region, where it begins and ends from the window's first
    position, and how far its middle lies from the window's."""
    print(markdown(parse_command(Options, argv, lambda _: Options(), main.__doc__)))


if __name__ == "__main__":
    sys.exit(run_command(main))
