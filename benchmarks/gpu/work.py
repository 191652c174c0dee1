"""Bytes and operations of one instruction of optimised HLO, with all that is fused into it."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence

from .hlo import Array, Computation, Instruction, Module
from .targets import ProductType

TRANSCENDENTAL_COST = 8
"""Elementwise operations that take as long as a transcendental one: an assumption."""
_TRANSCENDENTAL = {
    "atan2", "cbrt", "cosine", "divide", "erf", "exponential", "exponential-minus-one", "log", "log-plus-one",
    "logistic", "power", "rsqrt", "sine", "sqrt", "tan", "tanh",
}  # fmt: skip
_ARITHMETIC = {
    "abs", "add", "and", "ceil", "clamp", "compare", "floor", "is-finite", "maximum", "minimum", "multiply", "negate",
    "not", "or", "remainder", "round-nearest-afz", "round-nearest-even", "select", "shift-left",
    "shift-right-arithmetic", "shift-right-logical", "sign", "subtract", "xor",
}  # fmt: skip
_MOVING = {
    "bitcast", "bitcast-convert", "broadcast", "concatenate", "convert", "copy", "get-tuple-element", "pad",
    "reduce-precision", "reshape", "reverse", "transpose", "tuple",
}  # fmt: skip
_ONE_TO_ONE = _TRANSCENDENTAL | _ARITHMETIC | _MOVING
"""For an element of the result they read at most one of each operand."""
_TAKING = ("slice", "dynamic-slice", "gather")
_PRODUCTS: dict[str, ProductType] = {"bf16": "bfloat16", "f16": "bfloat16"}
"""Type of a product by that of its factors; others run without tensor cores, but for TF32."""


@dataclasses.dataclass
class Work:
    """Operations; see `Kernel`."""

    products: Counter[ProductType] = dataclasses.field(default_factory=Counter)
    elementwise: int = 0
    transcendental: int = 0

    def add(self, other: Work) -> None:
        self.products += other.products
        self.elementwise += other.elementwise
        self.transcendental += other.transcendental


def bytes_of(module: Module, computation: Computation, instruction: Instruction) -> tuple[int, int]:
    """Bytes that an instruction reads and writes.

    Of an operand it reads what its result needs: of a sliced or gathered one what is taken, of one that it updates in
    place what is updated.
    """
    operands = computation.operands(instruction)
    if instruction.opcode == "fusion":
        inside = module[instruction.attribute("calls")]
        wanted = _wanted(inside)
        read = sum(_share(operands[n].arrays, wanted[each.name]) for n, each in inside.parameters.items())
        return read, sum(_written(inside, each) for each in _results(inside, inside.root))
    counts = _taken(instruction, operands, instruction.elements, in_place=True)
    distinct = {each.name: _share(each.arrays, taken) for each, taken in zip(operands, counts)}
    return sum(distinct.values()), _written(computation, instruction)


def work_of(module: Module, computation: Computation, instruction: Instruction, wanted: int | None = None) -> Work:
    """Operations of an instruction of whose result ``wanted`` elements are computed, by default all."""
    wanted = instruction.elements if wanted is None else wanted
    operands, work = computation.operands(instruction), Work()
    match instruction.opcode:
        case "fusion" | "call":
            for name in instruction.called:
                inside = module[name]
                counts = _wanted(inside)
                for each in inside:
                    work.add(work_of(module, inside, each, counts[each.name]))
        case "dot" | "convolution" | "custom-call":
            if operations := _product_operations(instruction, operands):
                work.products[_product_type(instruction, operands)] += operations
        case "reduce":
            work.elementwise = sum(_taken(instruction, operands, wanted, in_place=False)[: len(operands) // 2])
        case "reduce-window":
            work.elementwise = wanted * _window(instruction)
        case "scatter":
            work.elementwise = sum(each.elements for each in operands[len(operands) // 2 + 1 :])
        case opcode if opcode in _TRANSCENDENTAL:
            work.transcendental = wanted
        case opcode if opcode in _ARITHMETIC:
            work.elementwise = wanted
    return work


def _wanted(computation: Computation) -> Counter[str]:
    """How many elements of each instruction the computation's result needs; each is computed once."""
    results = {each.name for each in _results(computation, computation.root)}
    wanted: Counter[str] = Counter({name: computation[name].elements for name in results})
    for each in reversed(list(computation)):
        wanted[each.name] = count = min(wanted[each.name], each.elements)
        if each.opcode == "tuple" and each.root:
            continue  # Its operands are the results.
        if count:
            operands = computation.operands(each)
            for operand, taken in zip(operands, _taken(each, operands, count, each.name in results)):
                wanted[operand.name] += taken
    return wanted


def _taken(instruction: Instruction, operands: Sequence[Instruction], wanted: int, in_place: bool) -> list[int]:
    """Elements of each operand that so many of the result need."""
    sizes = [each.elements for each in operands]
    opcode = instruction.opcode
    if opcode in _TAKING:
        return [min(sizes[0], wanted), *sizes[1:]]
    if opcode == "dynamic-update-slice":
        return [0 if in_place else min(sizes[0], wanted), *sizes[1:]]
    if opcode == "scatter":
        n = len(sizes) // 2
        return [*(sizes[n + 1 :] if in_place else sizes[:n]), *sizes[n:]]
    if opcode == "reduce":
        return [-(-size * wanted // instruction.elements) for size in sizes]
    if opcode in _ONE_TO_ONE:
        return [min(size, wanted) for size in sizes]
    return sizes


def _results(computation: Computation, instruction: Instruction) -> list[Instruction]:
    """What stands behind tuples and bitcasts: the instructions that write a computation's result."""
    if instruction.opcode in ("tuple", "bitcast"):
        return [each for operand in computation.operands(instruction) for each in _results(computation, operand)]
    return [instruction]


def _written(computation: Computation, instruction: Instruction) -> int:
    """Bytes that an instruction writes: of an update in place only the update."""
    operands = computation.operands(instruction)
    if instruction.opcode == "dynamic-update-slice":
        return operands[1].bytes
    if instruction.opcode == "scatter":
        return sum(each.bytes for each in operands[len(operands) // 2 + 1 :])
    return sum(array.bytes for array in results_of(instruction))


def results_of(instruction: Instruction) -> tuple[Array, ...]:
    """The arrays that an instruction gives, without its operands, which those that start a transfer repeat, and
    without the working memory that libraries' calls give last."""
    given = instruction.arrays
    if instruction.opcode in ("all-gather-start", "collective-permute-start", "copy-start", "reduce-scatter-start"):
        numbers = [array for array in given if array.dims or array.dtype not in ("u32", "s32")]
        return tuple(numbers[:1]) if instruction.opcode == "copy-start" else tuple(numbers[len(numbers) // 2 :])
    if instruction.opcode == "custom-call" and len(given) > 1 and given[-1].dtype in ("s8", "u8"):
        return given[:-1]
    return given


def _share(arrays: Sequence[Array], elements: int) -> int:
    """Bytes of so many elements of these arrays."""
    size, count = sum(array.bytes for array in arrays), sum(array.elements for array in arrays)
    return -(-size * min(elements, count) // count) if count else 0


def _product_operations(instruction: Instruction, operands: Sequence[Instruction]) -> int:
    """Of a matrix product or convolution, also as a call of cuBLAS or cuDNN; 0 of other calls."""
    target = instruction.target
    if instruction.opcode == "dot" or target.startswith("__cublas"):
        dimensions = instruction.listed("lhs_contracting_dims")
        if instruction.opcode != "dot":
            config = instruction.backend["gemm_backend_config"]
            dimensions = config["dot_dimension_numbers"]["lhs_contracting_dimensions"]
        return 2 * instruction.arrays[0].elements * math.prod(operands[0].arrays[0].dims[int(d)] for d in dimensions)
    if instruction.opcode == "convolution" or target.startswith("__cudnn$conv"):
        # In the labels of all three forms the filter is the second, whichever of the arrays is the result.
        left, right, result = operands[0].arrays[0], operands[1].arrays[0], instruction.arrays[0]
        outputs, kernel = result, right
        if "BackwardFilter" in target:
            outputs, kernel = right, result
        elif "BackwardInput" in target:
            outputs = left
        labels = instruction.attribute("dim_labels").partition("->")[0].split("_")[1]
        return 2 * outputs.elements * kernel.elements // kernel.dims[labels.index("o")]
    return 0


def _product_type(instruction: Instruction, operands: Sequence[Instruction]) -> ProductType:
    """What a product is computed in. float32 is TF32 unless the program asks for the highest precision."""
    factors = operands[0].arrays[0].dtype
    config = instruction.backend.get("gemm_backend_config", {}).get("precision_config", {})
    asked = (*instruction.listed("operand_precision"), *config.get("operand_precision", ()))
    if factors == "f32" and not any(word.lower() == "highest" for word in asked):
        return "tf32"
    return _PRODUCTS.get(factors, "float32")


def _window(instruction: Instruction) -> int:
    """Elements of a reduce-window's window."""
    size = instruction.attributes.partition("window={size=")[2]
    return math.prod(int(side) for side in size.split("}")[0].split(" ")[0].split("x") if side)
