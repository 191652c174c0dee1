"""What a compiled program does on a GPU: its kernels with their bytes and operations, and a roofline of them.

A prediction, not a measurement. Every kernel reads its operands from the device's memory and writes its result there:
what stays in a cache is not known, nor how well a kernel was tuned, nor what devices wait for each other.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator

from .hlo import Computation, Instruction, Module, parse
from .targets import LAUNCH_SECONDS, ProductType, Target
from .work import TRANSCENDENTAL_COST, bytes_of, results_of, work_of

UNKNOWN_TRIPS = 10
"""Times that a loop is taken to run where XLA does not know: k-means moves its centres ten times at most."""
_NOT_LAUNCHED = {
    "add-dependency", "after-all", "async-done", "async-update", "bitcast", "constant", "domain", "get-tuple-element",
    "opt-barrier", "parameter", "partition-id", "replica-id", "tuple",
}  # fmt: skip
_COLLECTIVES = {
    "all-gather", "all-reduce", "all-to-all", "collective-broadcast", "collective-permute", "ragged-all-to-all",
    "reduce-scatter",
}  # fmt: skip
_WEIGHTS = ("variables", "params", "batch_stats")
_OTHER_STATE = ("opt_state", "batch[")


@dataclasses.dataclass(frozen=True)
class Kernel:
    """Something that is launched.

    Attributes:
      name: of the instruction.
      kind: ``fusion kLoop``, ``fusion __triton``, what a custom call calls, else XLA's opcode.
      op_name: where JAX's program asked for it.
      shape: of the result, as HLO has it.
      times: how often it runs in a call of the program; a fraction where branches are taken to be equally likely.
      loop: names of the loops and conditionals around it, outermost first, each followed by "/"; "" outside.
      read: bytes that one run reads.
      written: bytes that it writes.
      products: operations of matrix products and convolutions, a multiplication and an addition being two, by type.
      elementwise: other operations.
      transcendental: exponentials, divisions and the like; they are not among ``elementwise``.
      weights_alone: whether it would give the same in every call, as it reads nothing but weights and constants.
    """

    name: str
    kind: str
    op_name: str
    shape: str
    times: float
    loop: str
    read: int
    written: int
    products: dict[ProductType, int]
    elementwise: int
    transcendental: int
    weights_alone: bool

    @property
    def bytes(self) -> int:
        return self.read + self.written

    @property
    def operations(self) -> int:
        """Of all kinds, a transcendental one being one."""
        return sum(self.products.values()) + self.elementwise + self.transcendental

    def seconds(self, target: Target) -> dict[str, float]:
        """What one run takes at least of each: ``bandwidth``, ``products``, ``elementwise``, ``launch``."""
        elementwise = self.elementwise + TRANSCENDENTAL_COST * self.transcendental
        return {
            "bandwidth": self.bytes / target.bandwidth_peak,
            "products": sum(count / target.product_peak(kind) for kind, count in self.products.items()),
            "elementwise": elementwise / target.elementwise_peak,
            "launch": LAUNCH_SECONDS,
        }

    def roof(self, target: Target) -> float:
        """Seconds of one run: memory and arithmetic at once, products and the rest one after another."""
        parts = self.seconds(target)
        return max(parts["bandwidth"], parts["products"] + parts["elementwise"])

    def waits_for(self, target: Target) -> str:
        """The key of ``seconds`` that decides."""
        parts = self.seconds(target)
        if self.roof(target) < parts["launch"]:
            return "launch"
        if parts["bandwidth"] >= parts["products"] + parts["elementwise"]:
            return "bandwidth"
        return max(("products", "elementwise"), key=parts.__getitem__)


@dataclasses.dataclass(frozen=True)
class Loop:
    """A ``while`` or ``conditional``.

    Attributes:
      name: of the instruction.
      kind: its opcode.
      trips: how often its body runs; None if that is not known before.
      op_name: where JAX's program asked for it.
      loop: those around it, as of a `Kernel`.
      waits: how often the host waits for the device in a call, to learn what runs next.
    """

    name: str
    kind: str
    trips: int | None
    op_name: str
    loop: str
    waits: float

    @property
    def host_driven(self) -> bool:
        """Whether the host waits at all."""
        return self.trips is None


@dataclasses.dataclass(frozen=True)
class Summary:
    """A program, or some of its kernels, on a target.

    Attributes:
      launches: kernels that a call runs.
      bytes: that they read and write.
      operations: of all kinds.
      roof_ms: sum of their roofs.
      launch_ms: the same where none takes less than a launch.
      waiting: ``launch_ms`` by what kernels wait for, the longest first.
      weights_alone: launches that depend on weights alone.
    """

    launches: float
    bytes: float
    operations: float
    roof_ms: float
    launch_ms: float
    waiting: dict[str, float]
    weights_alone: float


def summary(kernels: Iterable[Kernel], target: Target) -> Summary:
    """Adds up kernels."""
    kernels = list(kernels)
    roof_ms, waiting = 0.0, Counter[str]()
    for kernel in kernels:
        roof = kernel.roof(target)
        roof_ms += 1e3 * kernel.times * roof
        waiting[kernel.waits_for(target)] += 1e3 * kernel.times * max(roof, LAUNCH_SECONDS)
    return Summary(
        launches=sum(kernel.times for kernel in kernels),
        bytes=sum(kernel.times * kernel.bytes for kernel in kernels),
        operations=sum(kernel.times * kernel.operations for kernel in kernels),
        roof_ms=roof_ms,
        launch_ms=sum(waiting.values()),
        waiting=dict(waiting.most_common()),
        weights_alone=sum(kernel.times for kernel in kernels if kernel.weights_alone),
    )


def kernels(text: str, unknown_trips: int = UNKNOWN_TRIPS) -> list[Kernel]:
    """What a program launches, in its order.

    Args:
      text: ``compiled.as_text()``.
      unknown_trips: how often loops of unknown length are taken to run.
    """
    module = parse(text)
    constant = _of_weights_alone(module.entry)
    return [
        _kernel(module, computation, each, times, loop, computation is module.entry and each.name in constant)
        for computation, each, times, loop in _run(module, module.entry, unknown_trips)
        if each.opcode not in ("while", "conditional")
    ]


def loops(text: str, unknown_trips: int = UNKNOWN_TRIPS) -> list[Loop]:
    """The loops and conditionals of a program, inner ones too; the arguments are those of `kernels`."""
    module, found = parse(text), []
    for _, each, times, loop in _run(module, module.entry, unknown_trips):
        if each.opcode in ("while", "conditional"):
            rounds = unknown_trips + 1 if each.opcode == "while" else 1
            waits = 0 if each.trips is not None else times * rounds
            found.append(Loop(each.name, each.opcode, each.trips, each.op_name, loop, waits))
    return found


def atomic_scatters(text: str) -> list[str]:
    """Scatters that add with atomics: slow, and in an order that differs from run to run. XLA uses none where the
    program promises ``unique_indices``. Each as its shape and where JAX's program asked for it."""
    return [
        f"{each.shape} {each.op_name}"
        for each in _instructions(text)
        if each.opcode == "scatter" and each.attribute("unique_indices") != "true"
    ]


def float64_values(text: str) -> list[str]:
    """What is computed in float64 or complex128, each as its shape and where JAX's program asked for it."""
    return [
        f"{each.shape} {each.op_name}"
        for each in _instructions(text)
        if any(array.dtype in ("f64", "c128") for array in each.arrays)
    ]


def collectives(text: str) -> dict[str, list[int]]:
    """What devices exchange: operation -> bytes of the result of each such instruction, of one device's share. What a
    loop repeats is counted once."""
    found: dict[str, list[int]] = {}
    for each in _instructions(text):
        kind = each.opcode.removesuffix("-start")
        if kind in _COLLECTIVES:
            found.setdefault(kind, []).append(sum(array.bytes for array in results_of(each)))
    return found


def _instructions(text: str) -> Iterator[Instruction]:
    return (each for computation in parse(text).computations.values() for each in computation)


def _run(
    module: Module, computation: Computation, unknown_trips: int, times: float = 1, loop: str = ""
) -> Iterator[tuple[Computation, Instruction, float, str]]:
    """What a computation launches, loops and conditionals before their bodies: (computation, instruction, how often,
    the loops around it)."""
    for each in computation:
        if each.opcode in _NOT_LAUNCHED or each.opcode.endswith("-done"):
            continue
        inner, inside = times, loop
        if each.opcode == "while":
            inside = f"{loop}{each.name}/"
            yield computation, each, times, loop
            if each.trips is None:  # The condition decides on the device, before every round and after the last.
                decided = times * (unknown_trips + 1)
                yield from _run(module, module[each.attribute("condition")], unknown_trips, decided, inside)
            inner *= unknown_trips if each.trips is None else each.trips
        elif each.opcode == "conditional":
            inside = f"{loop}{each.name}/"
            yield computation, each, times, loop
            inner /= len(each.called)
        elif each.opcode not in ("call", "async-start"):
            yield computation, each, times, loop
            continue
        for name in each.called:
            yield from _run(module, module[name], unknown_trips, inner, inside)


def _kernel(
    module: Module, computation: Computation, each: Instruction, times: float, loop: str, weights_alone: bool
) -> Kernel:
    read, written = bytes_of(module, computation, each)
    work = work_of(module, computation, each)
    return Kernel(
        each.name, _kind(each), each.op_name, each.shape, times, loop, read, written, dict(work.products),
        work.elementwise, work.transcendental, weights_alone,
    )  # fmt: skip


def _kind(instruction: Instruction) -> str:
    if instruction.opcode == "fusion":
        emitter = instruction.backend.get("fusion_backend_config", {}).get("kind", "")
        return f"fusion {emitter if emitter.startswith('__') else instruction.attribute('kind')}"
    return instruction.target or instruction.opcode


def _of_weights_alone(entry: Computation) -> set[str]:
    """Names of the instructions that depend on no argument but weights. JAX calls parameters by their place among the
    arguments: ``variables['params']['encoder']``."""
    found: set[str] = set()
    for each in entry:
        if each.opcode == "parameter":
            name = each.op_name
            alone = any(word in name for word in _WEIGHTS) and not any(word in name for word in _OTHER_STATE)
        else:
            alone = all(name in found for name in each.operands)
        if alone:
            found.add(each.name)
    return found
