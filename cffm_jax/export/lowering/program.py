"""A traced program as a model of ONNX."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from jax.extend.core import ClosedJaxpr

from cffm_jax.export.lowering import control, elements, products, shapes
from cffm_jax.export.lowering.graph import Graph, Tensor, made
from cffm_jax.export.lowering.lower import Lowering
from cffm_jax.export.lowering.operators import OPERATORS

PRIMITIVES = {**elements.RULES, **shapes.RULES, **products.RULES, **control.RULES}


def converted(program: ClosedJaxpr, title: str, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.ModelProto:
    """The model of a program, whose inputs and outputs get these names.

    Raises:
      Unsupported: it computes what no rule knows.
    """
    graph = Graph()
    avals = zip(inputs, program.in_avals, strict=True)
    given = [Tensor(name, aval.shape, np.dtype(aval.dtype), aval.shape) for name, aval in avals]
    results = Lowering(graph, PRIMITIVES, OPERATORS).closed(program, given)
    model = made(graph, title, given, {name: graph.whole(each) for name, each in zip(outputs, results, strict=True)})
    onnx.checker.check_model(model)
    return model
