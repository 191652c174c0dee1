"""Builds a graph of ONNX: tensors, constants among them, and the nodes that compute them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

OPSET = 20
IR_VERSION = 10


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """An array of the graph.

    Attributes:
      name: in the graph; of a constant "" until a node reads it.
      shape: as the program has it.
      dtype: of its numbers.
      stored: as the graph has it: 1 along an axis whose numbers are all the same, or () of a
        scalar. Operators of elements broadcast it; others read ``Graph.whole``.
      constant: its numbers, in the stored shape.
      turned: a tensor and the order of its axes, if this is that one transposed.
      reshaped: a tensor, if this is that one in another shape.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    stored: tuple[int, ...]
    constant: np.ndarray | None = None
    turned: tuple[Tensor, tuple[int, ...]] | None = None
    reshaped: Tensor | None = None

    @property
    def is_whole(self) -> bool:
        return self.stored == self.shape


def constant(array: Any, shape: Sequence[int] | None = None) -> Tensor:
    """A constant, broadcast to a shape."""
    array = np.asarray(array)
    shape = array.shape if shape is None else tuple(shape)
    return Tensor("", shape, array.dtype, array.shape, array)


class Graph:
    """Nodes in order. Branches (``branch``) add to their own, and read those of the graph around
    them.

    Attributes:
      nodes: so far.
      computed: their results, by what they compute.
      sums: by the name of a sum with a constant, what that was added to, and the constant.
      place: of the root: the modules whose nodes are added now, as in the parameters' names.
    """

    def __init__(self, outer: Graph | None = None):
        self.root: Graph = outer.root if outer else self
        self.outer = outer
        self.nodes: list[onnx.NodeProto] = []
        self.computed: dict[Any, list[Tensor]] = {}
        self.sums: dict[str, tuple[Tensor, Tensor]] = {}
        if outer is None:
            self.initializers: dict[str, np.ndarray] = {}
            self._names: dict[Any, str] = {}
            self.count = 0
            self.place: tuple[str, ...] = ()

    def branch(self) -> Graph:
        return Graph(self)

    def new_name(self, kind: str) -> str:
        self.root.count += 1
        return f"{kind}_{self.root.count}"

    def add(
        self, kind: str, inputs: Iterable[Tensor | str], shape: Sequence[int], dtype: Any, **attributes: Any
    ) -> Tensor:
        """The result of a new node with one output."""
        (result,) = self.add_several(kind, inputs, [(shape, dtype)], **attributes)
        return result

    def add_several(
        self, kind: str, inputs: Iterable[Tensor | str], outputs: Sequence[tuple[Sequence[int], Any]], **attributes: Any
    ) -> list[Tensor]:
        """The results of a node: shapes and types of its outputs are given. What is computed
        already is not computed again."""
        names = [each if isinstance(each, str) else self.name(each) for each in inputs]
        once = kind not in ("If", "Identity")  # An Identity is there for its own name.
        key = (kind, tuple(names), repr(sorted(attributes.items()))) if once else None
        graph: Graph | None = self if once else None
        while graph:
            if key in graph.computed:
                return graph.computed[key]
            graph = graph.outer
        results = [
            Tensor(self.new_name(kind.lower()), tuple(shape), np.dtype(dtype), tuple(shape)) for shape, dtype in outputs
        ]
        name = "/".join((*self.root.place, results[0].name))
        self.nodes.append(helper.make_node(kind, names, [each.name for each in results], name, **attributes))
        if key:
            self.computed[key] = results
        return results

    def name(self, tensor: Tensor) -> str:
        """What nodes read a tensor by, as it is stored."""
        if tensor.constant is None:
            return tensor.name
        root, array = self.root, np.ascontiguousarray(tensor.constant).reshape(tensor.stored)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in root._names:
            root._names[key] = self.new_name("constant")
            root.initializers[root._names[key]] = array
        return root._names[key]

    def whole(self, tensor: Tensor) -> Tensor:
        """A tensor that is stored in its shape."""
        if tensor.is_whole:
            return tensor
        if tensor.constant is not None:
            return constant(np.broadcast_to(tensor.constant, tensor.shape))
        return self.add("Expand", [tensor, constant(np.array(tensor.shape, np.int64))], tensor.shape, tensor.dtype)

    def reshape(self, tensor: Tensor, shape: Sequence[int]) -> Tensor:
        shape = (math.prod(tensor.shape),) if tuple(shape) == (-1,) else tuple(shape)
        tensor = self.whole(tensor)
        if tensor.constant is not None:
            return constant(tensor.constant.reshape(shape))
        if tensor.reshaped is not None:
            tensor = tensor.reshaped
        if tensor.shape == shape:
            return tensor
        zero = {"allowzero": 1} if 0 in shape else {}
        result = self.add("Reshape", [tensor, constant(np.array(shape, np.int64))], shape, tensor.dtype, **zero)
        return dataclasses.replace(result, reshaped=tensor)

    def transpose(self, tensor: Tensor, order: Sequence[int]) -> Tensor:
        order = tuple(int(axis) for axis in order)
        if order == tuple(range(len(order))):
            return tensor
        if tensor.constant is not None:
            stored = tensor.constant.transpose(order) if tensor.constant.ndim else tensor.constant
            return constant(stored, [tensor.shape[axis] for axis in order])
        tensor = self.whole(tensor)
        if tensor.turned is not None:
            source, before = tensor.turned
            return self.transpose(source, [before[axis] for axis in order])
        shape = tuple(tensor.shape[axis] for axis in order)
        moved = [axis for axis in order if tensor.shape[axis] > 1]
        if moved == sorted(moved):  # Axes of one alone change places: the numbers stay.
            return self.reshape(tensor, shape)
        result = self.add("Transpose", [tensor], shape, tensor.dtype, perm=list(order))
        return dataclasses.replace(result, turned=(tensor, order))

    def cast(self, tensor: Tensor, dtype: Any) -> Tensor:
        dtype = np.dtype(dtype)
        if tensor.dtype == dtype:
            return tensor
        if tensor.constant is not None:
            return constant(tensor.constant.astype(dtype), tensor.shape)
        result = self.add("Cast", [tensor], tensor.stored, dtype, to=helper.np_dtype_to_tensor_dtype(dtype))
        return dataclasses.replace(result, shape=tensor.shape)

    def elementwise(
        self, kind: str, inputs: Sequence[Tensor], dtype: Any, shape: Sequence[int], **attributes: Any
    ) -> Tensor:
        """An operator of elements, which broadcasts. It goes before a transposition or a reshape of
        what it reads: next to the product that it can be part of."""
        varying = [each for each in inputs if each.constant is None]
        if varying and all(each.shape == tuple(shape) == each.stored for each in varying):
            orders = {each.turned[1] if each.turned else None for each in varying}
            (order,) = orders if len(orders) == 1 else (None,)
            if order:
                back = [int(axis) for axis in np.argsort(order)]
                before = [_turned_back(each, back) for each in inputs]
                result = self.elementwise(kind, before, dtype, [shape[axis] for axis in back], **attributes)
                return self.transpose(result, order)
            shapes = {each.reshaped.shape if each.reshaped else None for each in varying}
            (flat,) = shapes if len(shapes) == 1 else (None,)
            before = [_of_last_axis(each, flat) for each in inputs] if flat is not None else [None]
            found = [each for each in before if each]
            if flat is not None and len(found) == len(inputs):
                return self.reshape(self.elementwise(kind, found, dtype, flat, **attributes), shape)
        stored = np.broadcast_shapes(*(each.stored for each in inputs))
        return dataclasses.replace(self.add(kind, inputs, stored, dtype, **attributes), shape=tuple(shape))


def _turned_back(x: Tensor, back: Sequence[int]) -> Tensor:
    """What was turned, or a constant as that has it."""
    if x.constant is None:
        assert x.turned
        return x.turned[0]
    if x.constant.ndim == 0:
        return x
    return constant(x.constant.transpose(back), [x.shape[axis] for axis in back])


def _of_last_axis(x: Tensor, shape: Sequence[int]) -> Tensor | None:
    """What was reshaped, or a constant that differs along the last axis alone, for this shape."""
    if x.constant is None:
        return x.reshaped
    last = x.stored[-1:] or (1,)
    if x.constant.size > last[0] or not shape or last[0] not in (1, shape[-1]):
        return None
    return constant(x.constant.reshape((*(1,) * (len(shape) - 1), *last)), shape)


def needed(nodes: Sequence[onnx.NodeProto], outputs: Iterable[str]) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes that outputs depend on, and all names that they read."""
    read, kept = set(outputs), []
    for node in reversed(nodes):
        if read.isdisjoint(node.output):
            continue
        kept.append(node)
        read.update(node.input)
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                inner, names = needed(attribute.g.node, [each.name for each in attribute.g.output])
                del attribute.g.node[:]
                attribute.g.node.extend(inner)
                read |= names
    return kept[::-1], read


def rename(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Puts new names for some that the node, or a branch of it, reads and writes."""
    for each in (node.input, node.output):
        each[:] = [names.get(name, name) for name in each]
    for attribute in node.attribute:
        for inside in attribute.g.node:
            rename(inside, names)


def value_info(tensor: Tensor, name: str = "") -> onnx.ValueInfoProto:
    """How a graph declares what it takes or gives."""
    kind = helper.np_dtype_to_tensor_dtype(tensor.dtype)
    return helper.make_tensor_value_info(name or tensor.name, kind, tensor.shape)


def made(graph: Graph, title: str, inputs: Sequence[Tensor], outputs: dict[str, Tensor]) -> onnx.ModelProto:
    """The model of a graph: its outputs by name."""
    nodes, names = list(graph.nodes), {each.name: each.name for each in inputs}
    for name, tensor in outputs.items():
        if tensor.constant is not None or tensor.name in names:  # Its name is another's.
            nodes.append(helper.make_node("Identity", [graph.name(tensor)], [name]))
        else:
            names[tensor.name] = name
    for node in nodes:
        rename(node, names)
    nodes, read = needed(nodes, outputs)
    initializers = [numpy_helper.from_array(array, name) for name, array in graph.initializers.items() if name in read]
    proto = helper.make_graph(
        nodes,
        title,
        [value_info(each) for each in inputs],
        [value_info(tensor, name) for name, tensor in outputs.items()],
        initializers,
    )
    return helper.make_model(proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
