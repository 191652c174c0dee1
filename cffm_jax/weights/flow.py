"""Files of optical flow's weights, which hold no model of a method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cffm_jax.models.flow.raft import SIZES, Raft
from cffm_jax.weights import hub
from cffm_jax.weights.files.read import open_weights
from cffm_jax.weights.naming.match import convert_state_dict

_FIRST_OF_FLOW = "update_block.motion_encoder.convflow1.0.weight"
"""A key of every RAFT, by whose length its sizes are told."""


def load_flow(path: str | Path) -> tuple[Raft, dict[str, Any]] | None:
    """RAFT and its variables from a file with torchvision's names; None if it is none of RAFT.

    Raises:
      InputError: it cannot be read, or holds another RAFT or a part of one.
    """
    if hub.is_address(path) or not Path(path).is_file():
        return None
    with open_weights(path) as file:
        first = file.arrays.get(_FIRST_OF_FLOW)
        if first is None:
            return None
        sized = (name for name, size in SIZES.items() if first.shape[:1] == size.flow[:1])
        model = Raft(next(sized, "raft_small"))
        return model, convert_state_dict({key: x.load() for key, x in file.arrays.items()}, model, source=path)
