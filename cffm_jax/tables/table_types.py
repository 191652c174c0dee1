"""A table of the papers, a row of it, and what a row's network takes."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from cffm_jax.tables.networks import Network

FIGURES = {"mIoU": "miou", "weighted IoU": "weighted_iou", "mVC8": "vc8", "mVC16": "vc16"}
"""Heading in the papers -> field of `Row`, and key of the metric."""
VSPW, TEST_SERVER, CITYSCAPES = "VSPW val", "VSPW test", "Cityscapes val"

COSTS = {"parameters, M": "parameters", "GMAC": "macs", "FPS": "fps"}
"""Heading -> field of `Costs`."""


class Costs(NamedTuple):
    """What a network takes, as published; None where the paper does not say.

    Attributes:
      parameters: millions.
      macs: giga of a frame, see ``models.macs``.
      fps: frames a second on one RTX 6000.
    """

    parameters: float | None
    macs: float | None = None
    fps: float | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table; figures in percent, None where the paper has none.

    Attributes:
      label: names it within its table.
      method: what the paper calls it, and if what is here is another system, which.
      network: what is measured; None for a system that is not here.
      miou, vc8, vc16, weighted_iou: as published.
      where: the data it is measured on.
      costs: as published.
      one_backbone: stands in for ``network`` where all rows of the table get the same backbone.
    """

    label: str
    method: str
    network: Network | None
    miou: float
    vc8: float | None = None
    vc16: float | None = None
    weighted_iou: float | None = None
    where: str = VSPW
    costs: Costs | None = None
    one_backbone: Network | None = None


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of the paper.

    Attributes:
      name: table1 .. table11; cffa for the figures that the text gives.
      title: as the document's heading has it.
      rows: in the paper's order.
      note: what the paper leaves open, and what is chosen here.
      ablation: whether the rows differ in settings of a method; else in the systems or backbones.
      keeps_backbones: whether even there backbones differ; else all of them get the same.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    note: str = ""
    ablation: bool = True
    keeps_backbones: bool = False
