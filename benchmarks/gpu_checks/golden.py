"""The released implementation's values (tests/golden), by type and precision, within what rounding explains."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))

import jax
import numpy as np

from cffm_jax.models.create import create_model
from cffm_jax.models.losses import clip_loss
from cffm_jax.weights.naming.match import convert_state_dict, export_state_dict
from gpu_checks.bench import Bench

from helpers import golden_values

ABSOLUTE = 2e-5
"""Of each logit, in float32 at highest precision: what the tests hold on CPUs."""
RELATIVE = {"float32": 4e-3, "bfloat16": 3e-2}
"""Of all logits (Euclidean norms), in float32 by TF32, and in bfloat16."""
LOSS, GRADIENTS = {"highest": 1e-5, "default": 2e-3}, {"highest": 1e-3, "default": 5e-2}
"""Of the loss and of each gradient's norm, relative."""
NOISE = 1e-6
"""Norms below are of gradients that batch statistics cancel."""
CASES = (
    ("cffm_b0_96x160", "float32", "highest"),
    ("cffm_b0_96x160", "bfloat16", "default"),
    ("cffm_b1_160x224", "float32", "highest"),
    ("cffm_b1_160x224", "float32", "default"),
    ("cffm_b1_160x224", "bfloat16", "default"),
    ("cffmpp_b1_96x160", "float32", "highest"),
)
"""Stored outputs, type, precision of float32's products."""


def nhwc(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def values(bench: Bench) -> None:
    """Logits of clips, then the loss and gradients of a training step."""
    for case, dtype, precision in CASES[:2] if bench.tiny else CASES:
        logits(bench, case, dtype, precision)
    for precision in () if bench.tiny else ("highest", "default"):
        gradients(bench, precision)


def logits(bench: Bench, case: str, dtype: str, precision: str) -> None:
    entry = golden_values.manifest()[case]
    model = create_model(f"{entry['kind']}_{entry['variant']}", 124, dtype=dtype)
    variables = convert_state_dict(golden_values.state_dict(case), model)
    clips = nhwc(golden_values.draw_input("frames", entry["frames"]))[None]
    given = {name: golden_values.draw_input(name, entry[name]) for name in ("prototypes",) if name in entry}
    with jax.default_matmul_precision(precision):
        found = jax.device_get(
            jax.jit(functools.partial(model.apply, method="clip_outputs"))(variables, clips, **given)
        )
    expected = nhwc(golden_values.arrays(case)["logits"])
    error = float(np.abs(found.logits - expected).max())
    relative = float(np.linalg.norm(found.logits - expected) / np.linalg.norm(expected))
    same = (found.logits.argmax(-1) == expected.argmax(-1)).mean()
    label = f"{case} {dtype}, {precision}"
    note = f"of {np.abs(expected).max():.1f}; relative {relative:.1e}; {100 * same:.2f} % of the classes are the same"
    bench.report(f"{label}: largest error of a logit", error, "", note)
    if precision == "highest":
        bench.report(f"{label}: each within {ABSOLUTE:.0e}", error <= ABSOLUTE)
    else:
        bench.report(f"{label}: all within {RELATIVE[dtype]:.0e}, relative", relative <= RELATIVE[dtype])


def gradients(bench: Bench, precision: str) -> None:
    entry, stored = golden_values.manifest()["train_b0"], golden_values.arrays("train_b0")
    model = create_model("cffm_b0", 124, dropout=0.0, drop_path=0.0)
    variables = convert_state_dict(golden_values.state_dict("train_b0"), model)
    frames = nhwc(golden_values.draw_input("frames", entry["frames"]))
    clips = frames.reshape(entry["clips"], -1, *frames.shape[1:])

    def loss_of(params: dict[str, Any]) -> jax.Array:
        outputs, _ = model.apply(
            variables | {"params": params}, clips, train=True, method="clip_outputs", mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )  # fmt: skip
        return clip_loss(outputs, stored["labels"])[0]

    with jax.default_matmul_precision(precision):
        loss, found = jax.device_get(jax.jit(jax.value_and_grad(loss_of))(variables["params"]))
    norms = {
        key: np.linalg.norm(x.astype(np.float64)) for key, x in export_state_dict({"params": found}, model).items()
    }
    off = {key: abs(norms[key] - norm) / norm for key, norm in entry["grad_norms"].items() if norm > NOISE}
    worst, label = max(off, key=off.__getitem__), f"train_b0 float32, {precision}"
    error = abs(float(loss) / entry["loss"] - 1)
    bench.report(f"{label}: error of the loss, relative", error, "", f"within {LOSS[precision]:.0e} it passes")
    bench.report(f"{label}: the loss is the released one", error <= LOSS[precision])
    note = f"of {worst}; within {GRADIENTS[precision]:.0e} it passes"
    bench.report(f"{label}: largest error of a gradient's norm, relative", float(off[worst]), "", note)
    bench.report(f"{label}: the gradients are the released ones", bool(off[worst] <= GRADIENTS[precision]))
