"""From frames to masks: the engines of ``engines.py``, and how far their masks agree."""

from __future__ import annotations

import functools
import importlib
import time
from pathlib import Path

import engines
import jax
import numpy as np
from inference import FIRST, TIE, Plan, built, compared, keep_references, reference_file, warmed
from segformer import hugging_face

from gpu_checks.bench import Bench, median, peak
from gpu_checks.rows import PER_FRAME, speed

MARGINS = {"highest": TIE, "float32": 1e-2, "bfloat16": 5e-2}
"""How far the best two classes of a pixel may lie apart, of the largest logit, that another rounding turns round: in
float32 as on CPUs, in TF32 (10 bits; float32's products by default), in bfloat16 (7 bits)."""


def timed(bench: Bench, label: str, engine: engines.Engine) -> None:
    """Reports an engine's times a frame."""
    times = bench.times(engine.call)
    classes = len(np.unique(engine.call()))
    bench.report(f"{label}: {PER_FRAME}", median(times) / engine.masks, "ms/frame", f"{classes} classes")
    p99 = float(np.percentile(times, 99))
    bench.report(f"{label}: host to host, p99", p99 / engine.masks, "ms/frame", f"{len(times)} calls")
    ms = bench.queued(engine.queue, engine.wait)
    bench.report(f"{label}: on the device, queued", ms / engine.masks, "ms/frame", peak(engine.peak()))


def label_of(plan: Plan) -> str:
    batch = f" x{plan.batch}" if plan.mode == "offline" else ""
    return speed(plan.name, plan.dtype, plan.engine + batch)


def agreement(
    bench: Bench, label: str, found: tuple[float | None, float | None], of: str, margin: float | None
) -> None:
    """Reports how many pixels differ, and whether rounding explains it; nothing where nothing was compared.

    ``margin``: that of ties; None where rounding may change more."""
    differing, apart = found
    if differing is None or apart is None:
        return
    bench.report(f"{label}: pixels of another class than {of}", 100 * differing, "%", f"margin {apart:.1e}")
    if margin is not None:
        bench.report(f"{label}: these are ties, of a margin of {margin:.0e} at most", apart <= margin)


def segment(bench: Bench, name: str, dtype: str, mode: str, batch: int) -> None:
    """Compiles an engine, compares its masks with those that the part "clip" left, and times it."""
    plan = Plan(name, dtype, mode, batch)
    engine, seconds = built(plan, bench.scene(), bench.size)
    label = label_of(plan)
    bench.report(f"{label}: compile", seconds, "s")
    if engine.files and reference_file(plan, bench.folder, engine.causal).exists():
        found = compared(warmed(engine.files(), 1), engine, plan, bench.folder)
        # Causal prototypes are clustered anew in each frame: what rounding turns round there has no bound.
        agreement(bench, label, found, "clip by clip", None if engine.causal else MARGINS[dtype])
    timed(bench, label, engine)


def clip(bench: Bench) -> None:
    """The plain form: the clip of each mask through everything. Its masks in float32 at highest precision, in TF32, in
    bfloat16 and on the CPU are one another's but for ties."""
    name, exact = f"cffm_{bench.backbone}", bench.folder / "highest"
    for dtype, precision in (("float32", "highest"), *((dtype, None) for dtype in bench.dtypes)):
        folder = exact if precision else bench.folder
        masks_clip_by_clip(bench, Plan(name, dtype, "clip", 1), folder, precision, exact)
    if jax.default_backend() != "cpu":
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            masks_clip_by_clip(bench, Plan(name, "float32", "clip", 1), bench.folder / "cpu", "highest", exact, False)


def masks_clip_by_clip(
    bench: Bench, plan: Plan, folder: Path, precision: str | None, exact: Path, on_device: bool = True
) -> None:
    """Keeps the masks in a folder, for other engines; compares them with those that are exact; times the engine."""
    folder.mkdir(exist_ok=True)
    label = label_of(plan) + (f", {precision}" if precision else "") + ("" if on_device else ", CPU")
    with jax.default_matmul_precision(precision or "default"):
        engine, seconds = built(plan, bench.scene(), bench.size)
        bench.report(f"{label}: compile", seconds, "s")
        keep_references(engine, plan, folder, 1)
        if on_device:
            timed(bench, label, engine)
    if folder != exact:
        base = Plan(plan.name, "float32", "clip", 1)
        if reference_file(base, exact, False).exists():
            masks = np.load(reference_file(plan, folder, False))["masks"]
            found = compared(list(enumerate(masks, FIRST)), engine, base, exact)
            margin = MARGINS["highest" if precision else plan.dtype]
            agreement(bench, label, found, "in float32, highest", margin)


def offline(bench: Bench, batch: int, tiny: int) -> None:
    """Whole videos, so many frames a call."""
    for dtype in bench.dtypes:
        segment(bench, f"cffm_{bench.backbone}", dtype, "offline", tiny if bench.tiny else batch)


offline_1, offline_8, offline_16 = (functools.partial(offline, batch=n, tiny=m) for n, m in ((1, 1), (8, 2), (16, 3)))


def stream(bench: Bench) -> None:
    """A stream: the time of every frame counts."""
    for dtype in bench.dtypes:
        segment(bench, f"cffm_{bench.backbone}", dtype, "streams", 1)


def streams(bench: Bench) -> None:
    """Several streams in a step."""
    segment(bench, f"cffm_{bench.backbone}", bench.dtypes[0], "streams", 2 if bench.tiny else 8)


def plus_plus(bench: Bench) -> None:
    """CFFM++: whole videos with given prototypes, a stream with causal ones."""
    name = f"cffmpp_{bench.backbone}"
    masks_clip_by_clip(bench, Plan(name, bench.dtypes[0], "clip", 1), bench.folder, None, bench.folder / "highest")
    segment(bench, name, bench.dtypes[0], "offline", 2 if bench.tiny else 8)
    segment(bench, name, bench.dtypes[0], "streams", 1)


def sizes(bench: Bench) -> None:
    """The other backbones."""
    for size in ("b0",) if bench.tiny else ("b5", "b0", "b2"):
        segment(bench, f"cffm_{size}", bench.dtypes[0], "offline", 2 if bench.tiny else 8)
        segment(bench, f"cffm_{size}", bench.dtypes[0], "streams", 1)


def torch(bench: Bench, compiled: bool) -> None:
    """PyTorch's SegFormer, which mines nothing, on the same frames."""
    try:
        importlib.import_module("torch"), importlib.import_module("transformers")
    except ModuleNotFoundError as missing:
        bench.report("left out", str(missing))
        return
    for dtype in bench.dtypes:
        for batch in (1,) if bench.tiny else (1, 8):
            scene = engines.Scene(bench.scene(), bench.size, dtype, batch)
            began = time.perf_counter()
            engine = hugging_face(bench.backbone, scene, compiled)
            engine.call()
            how = "compiled" if compiled else "eager"
            label = speed(f"segformer_{bench.backbone}", dtype, f"PyTorch {how} x{batch}")
            bench.report(f"{label}: until its first masks", time.perf_counter() - began, "s")
            timed(bench, label, engine)


torch_eager, torch_compiled = (functools.partial(torch, compiled=compiled) for compiled in (False, True))
