"""Files of optical flow's weights, which hold no model of a method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cffm_jax.config import NOTHING
from cffm_jax.errors import InputError
from cffm_jax.models.flow.names import ORIGIN
from cffm_jax.models.flow.raft import SIZES, Raft
from cffm_jax.models.methods.flow_head import FLOW, FlowHead
from cffm_jax.models.methods.method import Method
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


def with_flow(variables: dict[str, Any], model: Method, path: str, *, held: bool) -> tuple[dict[str, Any], str]:
    """The variables of a model with the weights of the RAFT that it reads, and a line about them.

    Args:
      variables: of the model.
      model: of any method; of one without optical flow nothing changes, and the line is "".
      path: ``init.flow``.
      held: whether ``variables`` holds trained ones.

    Raises:
      InputError: they are missing, or of another RAFT.
    """
    if not isinstance(model, FlowHead) or (held and not path):
        return variables, ""
    if path == NOTHING:
        return variables, "optical flow: random"
    if not path:
        problem = f"is missing: {model.public_name} reads the optical flow of {model.flow_name}"
        remedy = f"name the file of its weights, or give --init.flow {NOTHING} to try things out with random ones"
        raise InputError("--init.flow", problem, remedy)
    found = load_flow(path)
    if not found or found[0].public_name != model.flow_name:
        problem = f"holds {found[0].public_name}" if found else "holds no weights of RAFT by torchvision's names"
        raise InputError(path, problem, f"give those of {model.flow_name}, or set --model.flow")
    weights = {collection: {**tree, FLOW: found[1].get(collection, {})} for collection, tree in variables.items()}
    return weights, f"optical flow from {path} ({ORIGIN.licence})"
