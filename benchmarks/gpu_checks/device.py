"""The device: what it is, its rates, and the kernels that take longest."""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from inference import Plan, built

from gpu_checks.bench import Bench, median

QUERY = "--query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem,power.limit"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "torch", "transformers")
CALLS, KERNELS = 5, 20
"""Calls that are traced, and kernels that are named."""


def rates(bench: Bench) -> None:
    """What the machine gives: bandwidth, products, the least time of a call, transfers."""
    bench.report("device", jax.devices()[0].device_kind, "", versions())
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", QUERY, "--format=csv,noheader"]
        told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        bench.report("nvidia-smi", told.stdout.strip() or told.stderr.strip()[:200])
    size, side = (2**20, 256) if bench.tiny else (2**29, 8192)
    x = jnp.ones(size // 4)
    copy = jax.jit(lambda x: x * 1.0001)
    ms = bench.queued(lambda: copy(x), seconds=bench.seconds / 4)
    bench.report("bandwidth, a scaled copy", 2 * size / ms / 1e6, "GB/s", "read and written")
    for dtype, precision in (("bfloat16", "default"), ("float32", "default"), ("float32", "highest")):
        y = jax.random.normal(jax.random.key(1), (side, side), dtype)
        product = jax.jit(functools.partial(jnp.matmul, precision=precision))
        ms = bench.queued(lambda product=product, y=y: product(y, y), seconds=bench.seconds / 4)
        bench.report(f"products, {dtype} {precision}", 2 * side**3 / ms / 1e9, "TFLOP/s", f"{side} a side")
    least, few = jax.jit(lambda x: x + 1), x[:8]
    bench.report("smallest call", 1e3 * median(bench.times(lambda: least(few), bench.seconds / 8)), "us")
    height, width = (96, 96) if bench.tiny else (480, 864)
    frames = np.zeros((8, height, width, 3), np.uint8)
    ms = median(bench.times(lambda: jax.device_put(frames), bench.seconds / 8))
    bench.report("8 frames to the device", ms, "ms", f"{frames.nbytes / 1e6:.1f} MB")


def versions() -> str:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)


def profile(bench: Bench) -> None:
    """The kernels that take longest, of whole videos and of a stream."""
    for mode, batch in (("offline", 2 if bench.tiny else 8), ("streams", 1)):
        plan = Plan(f"cffm_{bench.backbone}", bench.dtypes[0], mode, batch)
        engine, _ = built(plan, bench.scene(), bench.size)
        engine.wait(engine.queue())
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder):
                for _ in range(CALLS):
                    engine.wait(engine.queue())
            top_kernels(bench, Path(folder), f"{plan.name} {plan.dtype}, {plan.engine}")


def top_kernels(bench: Bench, folder: Path, label: str) -> None:
    """Reports the kernels of a trace, those of a GPU's streams."""
    trace = jax.profiler.ProfileData.from_file(str(next(folder.rglob("*.xplane.pb"))))
    planes = [plane for plane in trace.planes if plane.name.startswith("/device:GPU")]
    spent: dict[str, list[float]] = {}
    for line in (line for plane in planes for line in plane.lines if line.name.startswith("Stream")):
        for event in line.events:
            spent.setdefault(event.name, []).append(event.duration_ns)
    if not spent:
        bench.report(f"{label}: kernels", "none", "", "the trace has no streams of a GPU")
        return
    total, launches = (sum(map(each, spent.values())) for each in (sum, len))
    bench.report(f"{label}: busy", total / CALLS / 1e6, "ms/call", f"{launches / CALLS:.0f} kernels and copies a call")
    for name, times in sorted(spent.items(), key=lambda item: -sum(item[1]))[:KERNELS]:
        note = f"{len(times) / CALLS:.0f} a call, {100 * sum(times) / total:.1f} %"
        bench.report(f"{label}: {name[:60]}", sum(times) / CALLS / 1e3, "us/call", note)
