"""Files of optical flow's weights, which hold no model of a method."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

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


class FlowWeights(NamedTuple):
    """Variables of the RAFT that a model reads, by its paths there; in words what they are, and
    what is known of their use. Empty where it needs no others."""

    variables: dict[str, Any] = {}
    origin: str = ""
    licence: str = ""

    def beside(self, variables: dict[str, Any]) -> dict[str, Any]:
        """The model's variables with these."""
        return {name: {**tree, **self.variables.get(name, {})} for name, tree in variables.items()}


def flow_weights(model: Method, path: str, *, held: bool = False) -> FlowWeights:
    """The weights of the RAFT that a model of any method reads, if it reads one.

    Args:
      model: that is to be trained.
      path: ``init.flow``.
      held: whether trained ones are there already, which are kept unless a file is named.

    Raises:
      InputError: they are missing, or of another RAFT.
    """
    if not isinstance(model, FlowHead) or (held and path in ("", NOTHING)):
        return FlowWeights()
    if path == NOTHING:
        return FlowWeights(origin="optical flow: random")
    if not path:
        problem = f"is missing: {model.public_name} reads the optical flow of {model.flow_name}"
        remedy = f"name the file of its weights, or give --init.flow {NOTHING} to try things out with random ones"
        raise InputError("--init.flow", problem, remedy)
    if not Path(path).is_file():
        raise InputError(path, "no such file", f"name the file with the weights of {model.flow_name}")
    found = load_flow(path)
    if not found or found[0].public_name != model.flow_name:
        problem = f"holds {found[0].public_name}" if found else "holds no weights of RAFT by torchvision's names"
        raise InputError(path, problem, f"give those of {model.flow_name}, or set --model.flow")
    flow = {collection: {FLOW: tree} for collection, tree in found[1].items()}
    return FlowWeights(flow, f"optical flow from {path}", f"optical flow: {ORIGIN.licence}")
