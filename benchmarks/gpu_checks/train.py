"""Training steps, and the clustering of a video's prototypes."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import engines
import jax
import model
import numpy as np

from cffm_jax.data.class_names import VSPW
from cffm_jax.models.create import build_model
from cffm_jax.models.kmeans import kmeans
from gpu_checks.bench import Bench, median, peak


def training(bench: Bench, family: str = "cffm", which: int = 0, remat: str = "none") -> None:
    """A step of ``model.py --train``: clips a second, memory, whether its loss is a number. ``which`` of the types."""
    clips, name, dtype = 1 if bench.tiny else 8, f"{family}_{bench.backbone}", bench.dtypes[which]
    options = model.Options(crop=bench.crop, output=bench.size, train_batch=clips, classes=len(VSPW))
    config = model.config_for(name, dtype, options)
    network = build_model(config.model).clone(remat=remat)
    program = model.training_program(network, config, options, engines.drawn_variables(network))
    metrics: dict[str, Any] = {}

    def carry(arguments: tuple[Any, ...], result: tuple[Any, dict[str, Any]]) -> tuple[Any, ...]:
        metrics.update(result[1])
        return program.carry(arguments, result)

    row = model.measure(name, dtype, dataclasses.replace(program, carry=carry), bench.seconds)
    label = f"{name} {dtype}, training x{clips}" + (f", remat {remat}" if remat != "none" else "")
    bench.report(f"{label}: compile", row.lower_seconds + row.compile_seconds, "s")
    bench.report(f"{label}: clips", row.per_second, "clips/s", f"{row.call_ms:,.1f} ms a step, {row.calls} calls")
    if row.temp_bytes is not None and row.peak_bytes is not None:
        note = f"temporary {row.temp_bytes / model.MIB:,.0f} MiB; {peak()}".rstrip("; ")
        bench.report(f"{label}: memory of the program", row.peak_bytes / model.MIB, "MiB", note)
    finite = bool(np.isfinite(metrics["loss"])) and not metrics["skipped"]
    bench.report(f"{label}: the loss is finite, and no step was left out", finite)


float32 = functools.partial(training, which=-1)
remat = functools.partial(training, remat="products")
plus_plus = functools.partial(training, family="cffmpp")


def clustering(bench: Bench) -> None:
    """k-means of ten frames' features of 480x864."""
    count, k = (2_000, 20) if bench.tiny else (64_800, 100)
    tokens = jax.random.normal(jax.random.key(0), (count, 256))
    program = jax.jit(functools.partial(kmeans, k=k)).lower(jax.random.key(1), tokens).compile()
    times = bench.times(functools.partial(program, jax.random.key(1), tokens))
    note = f"{len(times)} calls; {peak()}".rstrip("; ")
    bench.report(f"k-means of {count:,} x 256, {k} centres", median(times), "ms", note)
