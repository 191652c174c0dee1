"""The papers' tables as a document: ``docs/tables.md``."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence

from cffm_jax.runtime.command_line import parse_command
from cffm_jax.tables.networks import Command, eval_command, train_command
from cffm_jax.tables.rows import TABLES
from cffm_jax.tables.table_types import COSTS, FIGURES, TEST_SERVER, Table

HEAD = """# The papers' tables

Printed by `python -m cffm_jax.tables`; do not edit. All figures are the papers': none of these rows
has been trained here. Numbers are those of the second paper (CFFM++, TPAMI 2024); of the first
(CFFM, CVPR 2022) Table 1 is Table 1 here, Table 2 is Table 3, Table 3 is Table 4 and Table 4 is
Table 5, for the rows that it has.

The commands expect VSPW_480p in `data/VSPW_480p`, and in the current folder ImageNet weights:
SegFormer's `mit_b0.pth` .. `mit_b5.pth`, for [compared systems](compared_systems.md#weights)
`resnet101.pth`, that of the VSPW baselines, `resnet101_v1c.pth` and `mnv2.pth`, of MMSegmentation,
torchvision's `resnet18.pth`, and for optical flow its `raft_small.pth` and `raft_large.pth`;
`pspnet_r101.pth` is MMSegmentation's PSPNet of Cityscapes. A network's commands stand below the
first table that has it, after those of the networks it starts from; run them in that order. A row's
figures are the first line of its evaluation.

The rows of Tables 1, 4 to 11 and of the text can be compared in small, on the built-in videos or
one's own, with `python -m cffm_jax.study table8 --seeds 0 1 2`.
"""


def markdown() -> str:
    """The whole document."""
    parts, shown = [HEAD], set()
    for table in TABLES:
        fresh = {}
        for row in table.rows:
            for network in row.network.needs() if row.network else ():
                if network not in shown:
                    fresh.setdefault(network, []).append(train_command(network))
                    shown.add(network)
            if row.network and row.network in fresh and row.where != TEST_SERVER:
                fresh[row.network].append(eval_command(row.network))
        parts.append(_section(table, [command for network in fresh for command in fresh[network]]))
    return "\n".join(parts)


def _section(table: Table, fresh: Sequence[Command]) -> str:
    given = {head: f for head, f in FIGURES.items() if any(getattr(row, f) is not None for row in table.rows)}
    costs = {head: f for head, f in COSTS.items() if any(getattr(row.costs, f, None) is not None for row in table.rows)}
    heads = ["row", "method", *costs, *given, "run"]
    lines = [f"## {table.title}", ""]
    if table.note:
        lines += [*textwrap.wrap(table.note, 100, break_on_hyphens=False), ""]
    lines += ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in table.rows:
        figures = [getattr(row.costs, cost) for cost in costs.values()]
        figures += [getattr(row, figure) for figure in given.values()]
        cells = [row.label, row.method, *("-" if figure is None else str(figure) for figure in figures)]
        lines.append("| " + " | ".join([*cells, f"`{row.network.run}`" if row.network else "-"]) + " |")
    if not all(row.network for row in table.rows):
        lines += ["", "A system without a run is not here yet: its figures are the papers' alone."]
    if fresh:
        lines += ["", "```", *("python " + " ".join(command) for command in fresh), "```"]
    return "\n".join(lines) + "\n"


@dataclasses.dataclass(frozen=True)
class Options:
    """None: the document is always the same."""


def main(argv: Sequence[str]) -> None:
    """Prints the papers' tables with the commands that reproduce their rows, as docs/tables.md has
    them."""
    parse_command(Options, argv, lambda _: Options(), main.__doc__)
    print(markdown(), end="")
