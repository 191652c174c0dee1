"""The state that a training step changes and a checkpoint stores."""

from __future__ import annotations

from typing import Any

import flax
import jax
import optax


class TrainState(flax.struct.PyTreeNode):
    """Iterations done, parameters, BatchNorm statistics, optimiser state.

    Attributes:
      skipped: i32[], iterations whose update was not applied, as loss or gradients were not finite.
      bad_in_a_row: i32[], those since the last that was applied.
      ema: moving average of the parameters that are trained; None without.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    skipped: jax.Array
    bad_in_a_row: jax.Array
    ema: Any = None

    @property
    def variables(self) -> dict[str, Any]:
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def counters(self) -> dict[str, jax.Array]:
        return {"skipped": self.skipped, "bad_in_a_row": self.bad_in_a_row}

    @property
    def averaged(self) -> dict[str, Any]:
        """The variables to evaluate: with the average, if there is one, for what is trained."""
        return {"params": {**self.params, **(self.ema or {})}, "batch_stats": self.batch_stats}
