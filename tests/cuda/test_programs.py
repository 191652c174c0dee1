"""Every program compiles for NVIDIA's GPUs, with none at hand, and costs there no more than it may.

Frames are tiny: launches, loops and what is exchanged hardly depend on their size; memory and bytes grow with it.
After a change for the better put the rows that ``make test-cuda PYTEST_ARGS=-rP`` prints into ``BOUNDS``.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import NamedTuple

import jax
import pytest

from benchmarks.gpu import costs, programs, targets
from cffm_jax.config import ModelConfig
from cffm_jax.models.create import build_model
from cffm_jax.models.variables import variable_shapes
from cffm_jax.runtime.xla import require_determinism

pytestmark = pytest.mark.cuda


class Costs(NamedTuple):
    """Of a call: kernels; loops and branches at which the host waits; megabytes of memory in between, and megabytes
    that kernels read and write."""

    launches: float
    host_loops: int
    temporary: float
    moved: float


MEASURED_WITH = "0.10."
"""JAX's version. The XLA of another has other figures: with it, only what needs none is held."""
BOUNDS = {
    # For sm_90, B0: the bound, and the figure of 2026-11-30.
    ("chunk", "bfloat16"): (Costs(332, 0, 17.1, 129.2), Costs(316, 0, 16.3, 123.1)),
    ("chunk", "float32"): (Costs(222, 0, 22.6, 172.1), Costs(211, 0, 21.5, 163.9)),
    ("chunk-cffmpp", "bfloat16"): (Costs(363, 0, 17.4, 146.1), Costs(346, 0, 16.6, 139.2)),
    ("labelled", "bfloat16"): (Costs(330, 0, 9.1, 83.8), Costs(314, 0, 8.7, 79.8)),
    ("stream", "bfloat16"): (Costs(204, 0, 8.5, 34.4), Costs(194, 0, 8.0, 32.8)),
    ("stream", "float32"): (Costs(187, 0, 9.6, 55.1), Costs(178, 0, 9.1, 52.5)),
    ("streams-4", "bfloat16"): (Costs(211, 0, 17.1, 103.1), Costs(201, 0, 16.3, 98.2)),
    # Its loops and branches are those of the clustering: when a stream starts, or has a frame to take in.
    ("stream-cffmpp", "bfloat16"): (Costs(418, 4, 9.6, 79.9), Costs(398, 4, 9.1, 76.1)),
    ("stream-tiles", "bfloat16"): (Costs(649, 0, 11.0, 125.3), Costs(618, 0, 10.5, 119.4)),
    ("export", "bfloat16"): (Costs(322, 0, 8.4, 64.2), Costs(307, 0, 8.0, 61.2)),
    ("k-means", "bfloat16"): (Costs(570, 2, 9.1, 149.9), Costs(543, 2, 8.7, 142.8)),
    ("training", "bfloat16"): (Costs(1560, 0, 48.7, 606.7), Costs(1486, 0, 46.4, 577.8)),
    ("second-stage", "bfloat16"): (Costs(410, 0, 8.6, 94.8), Costs(390, 0, 8.1, 90.3)),
    # Of one block a stage.
    ("training-remat", "bfloat16"): (Costs(1173, 0, 31.0, 513.1), Costs(1117, 0, 29.6, 488.6)),
    ("training-accumulate", "bfloat16"): (Costs(1989, 0, 37.0, 589.6), Costs(1894, 0, 35.3, 561.5)),
    ("training-data-2", "bfloat16"): (Costs(1226, 0, 22.3, 358.2), Costs(1168, 0, 21.2, 341.1)),
    ("training-fsdp-2", "bfloat16"): (Costs(1299, 0, 26.9, 316.5), Costs(1237, 0, 25.6, 301.5)),
}  # fmt: skip
EXCHANGED: dict[str, dict[str, tuple[float, float]]] = {
    # Gradients, in bfloat16 as they come, and BatchNorm's sums.
    "training-data-2": {"all-reduce": (0.5, 0.55)},
    # The state's parts are collected and their gradients scattered; small arrays are whole everywhere.
    "training-fsdp-2": {
        "all-gather": (0.95, 1.05),
        "reduce-scatter": (0.2, 0.3),
        "all-reduce": (0.05, 0.15),
        "collective-permute": (0, 0.001),
    },
}
"""Program -> what its devices exchange: bytes at least and at most, as a multiple of the parameters' in float32."""
TRAINED = ("training", "second-stage")
"""Beginnings of the programs that add nothing in an order that differs from run to run."""

SIZES = programs.Sizes(frame=(64, 90), crop=(64, 64), chunk=4, clips=2, prototypes=20)
SHALLOW = dataclasses.replace(SIZES, depths=(1, 1, 1, 1))
"""The blocks of a stage are alike: where all have been compiled once, one of each will do."""
VARIANTS = ("training-remat", "training-accumulate", "training-data-2", "training-fsdp-2")
ONE_DEVICE = tuple(dict.fromkeys(program for program, _ in BOUNDS if program not in VARIANTS))
CARDS = {"sm_90": "h200", "sm_80": "a100", "sm_89": "l4"}
AS_USERS = {"xla_disable_hlo_passes": ""}
"""Takes back what conftest.py sets and figures depend on: users' kernels are measured. That they are little optimised
stays: it saves an eighth of the time."""


class Case(NamedTuple):
    program: str
    dtype: str
    card: str = "sm_90"
    backbone: str = "b0"
    sizes: programs.Sizes = SIZES
    deterministic: bool = False

    def __str__(self) -> str:
        return "-".join((*self[:4], *(["deterministic"] if self.deterministic else [])))

    @property
    def is_measured(self) -> bool:
        """Whether BOUNDS has its figures."""
        measured = self.card == "sm_90" and self.backbone == "b0" and (self.program, self.dtype) in BOUNDS
        return measured and jax.__version__.startswith(MEASURED_WITH)


CASES = (
    *(Case(*key, sizes=SHALLOW if key[0] in VARIANTS else SIZES) for key in BOUNDS),
    *(
        Case(program, "float32", "sm_80", sizes=SHALLOW, deterministic=program.startswith(TRAINED))
        for program in ONE_DEVICE
    ),
    # Training in bfloat16 takes thrice the time to compile for it.
    *(
        Case(program, "float32" if program == "training" else "bfloat16", "sm_89", sizes=SHALLOW)
        for program in ONE_DEVICE
    ),
    *(Case(*key, backbone=name) for name in os.environ.get("CUDA_MODELS", "").split() for key in BOUNDS),
)
LONGEST_FIRST = sorted(CASES, key=lambda case: not case.program.startswith("training"))
"""So that no process waits for another's last."""


@pytest.fixture(scope="module", autouse=True)
def compiled_anew():
    """What is read from JAX's cache of compiled programs has to be loaded into a device."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    yield
    jax.config.update("jax_enable_compilation_cache", before)


@functools.cache
def devices(card: str) -> list[jax.Device]:
    return targets.topology(targets.TARGETS[CARDS[card]], 2).devices


@pytest.fixture
def options(request, monkeypatch):
    """The compiler's: where the case is deterministic those alone that ``train.py --deterministic`` sets."""
    if not request.getfixturevalue("case").deterministic:
        return targets.COMPILER_OPTIONS
    monkeypatch.setenv("XLA_FLAGS", "")
    require_determinism()
    flags = (flag.removeprefix("--").split("=") for flag in os.environ["XLA_FLAGS"].split())
    return {name: {"true": True, "false": False}[value] for name, value in flags}


def test_every_program_has_a_row():
    assert {program for program, _ in BOUNDS} == {*programs.programs(devices("sm_90"))}


@pytest.mark.parametrize("case", LONGEST_FIRST, ids=str)
def test_a_program_compiles_and_costs_no_more_than_it_may(case, options):
    with jax.default_matmul_precision("default"):  # Users', not that of the tests on the CPU.
        lowered = programs.programs(devices(case.card), case.backbone, case.dtype, case.sizes)[case.program].lower()
    program = lowered.compile(compiler_options=AS_USERS | options)
    text = program.as_text()
    cost = costs_of(program, text)
    print(row(case, cost))
    wrong = [f"float64: {each}" for each in costs.float64_values(text)]
    if case.program.startswith(TRAINED):
        wrong += [f"adds with atomics: {each}" for each in costs.atomic_scatters(text)]
    wrong += unexpected(case, costs.collectives(text)) + grown(case, cost, text)
    assert not wrong, "\n  ".join([str(case), *wrong, f"now: {row(case, cost)}"])


def costs_of(program: jax.stages.Compiled, text: str) -> Costs:
    total = costs.summary(costs.kernels(text), targets.TARGETS["h200"])
    waits = sum(loop.host_driven for loop in costs.loops(text))
    return Costs(total.launches, waits, program.memory_analysis().temp_size_in_bytes / 1e6, total.bytes / 1e6)


def row(case: Case, cost: Costs) -> str:
    """The row of BOUNDS that would hold it, with a twentieth to spare."""
    most = (f"{1.05 * cost.launches:.0f}", str(cost.host_loops), *(f"{1.05 * x:.1f}" for x in cost[2:]))
    now = (f"{cost.launches:.0f}", str(cost.host_loops), *(f"{x:.1f}" for x in cost[2:]))
    return f'("{case.program}", "{case.dtype}"): (Costs({", ".join(most)}), Costs({", ".join(now)})),'


def grown(case: Case, cost: Costs, text: str) -> list[str]:
    """What is above its bound, by how much; where no figures are held, the loops alone."""
    bound, then = BOUNDS.get((case.program, case.dtype)) or BOUNDS[case.program, "bfloat16"]
    found = []
    for name in Costs._fields if case.is_measured else ("host_loops",):
        value, most, before = (getattr(each, name) for each in (cost, bound, then))
        if value > most:
            found.append(f"{name}: {value:g}, at most {most:g} may be; it was {before:g} ({value - before:+g})")
            if name == "host_loops":
                found += [f"  {loop.kind} {loop.op_name}" for loop in costs.loops(text) if loop.host_driven]
    return found


def unexpected(case: Case, exchanged: dict[str, list[int]]) -> list[str]:
    """Collectives that are missing or too many, and what they move too much."""
    expected = EXCHANGED.get(case.program, {})
    if not exchanged and not expected:
        return []
    model = build_model(ModelConfig(f"cffm_{case.backbone}", case.sizes.classes, depths=case.sizes.depths))
    parameters = 4 * sum(leaf.size for leaf in jax.tree.leaves(variable_shapes(model)["params"]))
    found = []
    for kind in sorted(exchanged.keys() | expected.keys()):
        share, (least, most) = sum(exchanged.get(kind, [])) / parameters, expected.get(kind, (0, 0))
        if not least <= share <= most:
            found.append(f"{kind}: {share:.4f} of the parameters' bytes, {least} to {most} expected")
    return found
