"""Gathers the context tokens of all windows (CFFM section 3.2, Eq. 3) by the tables of ``cffa``.
Other forms of it race in ``benchmarks/context.py``.

Dimension key: as there; L counts clips and heads.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Array, Float

from cffm_jax.models.contexts.cffa import PooledSource, context_index
from cffm_jax.models.contexts.windows import HALO
from cffm_jax.models.gather import take_of


def assemble(
    fine: Float[Array, "L H W D"],
    grids: Sequence[Float[Array, "L _ _ D"]],
    sources: tuple[PooledSource, ...],
    halo: int = HALO,
    multiple: int = 1,
) -> Float[Array, "L H//{sources[0].window} W//{sources[0].window} _ D"]:
    """Gathers each window's context: the target's own region, then the sources' cells in order.

    Args:
      fine: keys or values of the target, padded; L counts clips and heads.
      grids: those of each source, pooled.
      sources: their rows of the table, the target's first.
      halo: positions around a window in the target's region.
      multiple: of what the tokens' number shall be; those added are zero.

    Returns:
      169 + sum K * K tokens a window in the release; cells outside the map are zero.
    """
    lead, height, width, d = fine.shape
    window = sources[0].window
    index = context_index(height // window, width // window, sources, halo, multiple)
    return take_of([x.reshape(lead, -1, d) for x in (fine, *grids)], 1, index)
