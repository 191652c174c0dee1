"""torchvision's networks with random weights, beside any build of torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.reference import torch

FOLDER = Path(sys.prefix) / "torchvision"
"""Where ``make test-reference`` puts it: in the environment transformers would import it, and fail without CUDA."""


def network(module: str, name: str, **settings: Any) -> Any:
    """A network of a module, such as ``raft_small`` of "models.optical_flow", in evaluation mode, with running values
    that are no zeros and ones; the test is skipped without torchvision."""
    # Its operators need CUDA's libraries. These networks use none, but the import asks for two, which are declared.
    operators = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            operators.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(FOLDER)])
        found = pytest.importorskip(f"torchvision.{module}")
    torch.manual_seed(0)
    made = getattr(found, name)(**settings)
    for key, value in made.named_buffers():
        if key.endswith(("running_mean", "running_var")):
            value.copy_(0.5 + torch.rand(value.shape))
    return made.eval()
