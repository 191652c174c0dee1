"""Speed of a run: wall time by cause, the device's peak, a trace of some steps."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

# --- goodput

CAUSES = ("start", "compile", "data", "evaluation", "checkpoint", "lost")
"""Causes of time without training: reading and placing all before the first step, compiling it
and that step, waiting for data (idle device) or checkpoints, evaluations, steps redone after a
kill."""


class Clock:
    """Wall time of a run by cause; what no cause takes is productive.

    Args:
      began: ``time.perf_counter()`` at the start of this process's part.
      before: ``seconds()`` of the processes before it.
    """

    def __init__(self, began: float, before: Mapping[str, float] | None = None):
        self.began = began
        self._before = (before or {}).get("wall", 0.0)
        self._spent = {cause: (before or {}).get(cause, 0.0) for cause in CAUSES}

    def add(self, cause: str, seconds: float) -> None:
        self._spent[cause] += seconds

    @contextlib.contextmanager
    def spent(self, cause: str) -> Iterator[None]:
        since = time.perf_counter()
        try:
            yield
        finally:
            self.add(cause, time.perf_counter() - since)

    def seconds(self) -> dict[str, float]:
        """Seconds by cause; "wall" is their sum with "productive"."""
        wall = self._before + time.perf_counter() - self.began
        return {"wall": wall, "productive": wall - sum(self._spent.values()), **self._spent}


def goodput(seconds: Mapping[str, float]) -> float:
    """Productive share of the wall time."""
    return seconds["productive"] / max(seconds["wall"], 1e-9)


def in_words(seconds: Mapping[str, float]) -> str:
    """Goodput in words, the causes of the rest by size."""
    causes = sorted((cause for cause in CAUSES if seconds[cause] > 0), key=seconds.__getitem__, reverse=True)
    rest = ", ".join(f"{cause} {100 * seconds[cause] / seconds['wall']:.1f} %" for cause in causes)
    return f"goodput {100 * goodput(seconds):.1f} % of {seconds['wall']:,.0f} s; the rest: {rest or 'nothing'}"


def taken_up(last: Mapping[str, float], kept: Mapping[str, float] | None) -> dict[str, float]:
    """Seconds so far of a resumed run: what was productive after the last kept line is lost."""
    again = last["productive"] - (kept or {"productive": 0.0})["productive"]
    return {**last, "productive": last["productive"] - again, "lost": last["lost"] + again}


# --- MFU

PEAK_TFLOPS = {
    "A100": (156.0, 312.0),
    "A30": (82.0, 165.0),
    "A40": (74.8, 149.7),
    "RTX A6000": (77.4, 154.8),
    "GeForce RTX 3090": (35.6, 71.0),
    "H100 PCIe": (378.0, 756.0),
    "H100 NVL": (417.5, 835.5),
    "H100 80GB HBM3": (494.5, 989.5),
    "H200": (494.5, 989.5),
    "L4": (60.0, 121.0),
    "L40S": (183.0, 362.0),
    "GeForce RTX 4090": (82.6, 165.2),
    "V100-SXM2": (15.7, None),
    "V100-PCIE": (14.0, None),
    "T4": (8.1, None),
}  # fmt: skip
"""Part of ``device_kind`` -> TFLOP/s of dense products in float32 as JAX computes it by default
(TF32, where there is TF32) and in bfloat16 with float32 sums, None where tensor cores know none.
NVIDIA's data sheets of these products, for the RTX 3090 and 4090 the white papers of GA102 and of
Ada; figures given for sparse matrices halved."""


class Work(NamedTuple):
    """Floating point operations of a step on all devices, and their peak a second; 0: unknown."""

    flops: float = 0.0
    peak: float = 0.0


def peak_flops(device_kind: str, dtype: str, precision: str | None = None) -> float:
    """Peak of a device in operations/s, 0 if it is not known. ``precision``: JAX's default for
    products; another than None has no row in the table in float32."""
    known = [name for name in PEAK_TFLOPS if _names(device_kind, name)]
    if not known or (dtype == "float32" and precision not in (None, "default")):
        return 0.0
    return 1e12 * (PEAK_TFLOPS[max(known, key=len)][dtype == "bfloat16"] or 0.0)


def _names(device_kind: str, name: str) -> bool:
    """Whether a device's words, after the maker's, start with a name's: an A40 is no A4000."""
    words, wanted = device_kind.replace("-", " ").split(), name.replace("-", " ").split()
    words = words[1:] if words[:1] in (["NVIDIA"], ["Tesla"]) else words
    rest = words[len(wanted) :]
    return words[: len(wanted)] == wanted and not {"Laptop", "Ti", "SUPER", "D"} & set(rest)


def device_peak() -> int | None:
    """Most bytes this process used on its first device; None where the backend does not tell."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


# --- profile


class Profile:
    """Traces steps from this process's third on: the first compiles, the second fills the pipeline.

    Args:
      folder: where it goes; None: there is none.
      start: steps done before the first of this process.
      say: takes a line about it.
    """

    STEPS = 3

    def __init__(self, folder: Path | None, start: int, say: Callable[[str], None]):
        self._folder, self._first, self._say = folder, start + 3, say
        self._running = False

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Runs a step, which is marked in the trace with its number."""
        if self._folder and number == self._first:
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def after(self, number: int, state: Any) -> None:
        """Ends the trace, after a step and what follows, when it has its steps; waits for all."""
        if self._running and number >= self._first + self.STEPS - 1:
            jax.block_until_ready(state)
            self._end(number)

    def close(self, number: int) -> None:
        """At the end of a run that was too short, or stopped."""
        if self._running:
            self._end(number)
        elif self._folder and number < self._first:
            self._say(f"no profile: it begins with step {self._first}")

    def _end(self, number: int) -> None:
        self._running = False
        jax.profiler.stop_trace()
        opened = f"python -m pip install xprof; xprof --logdir {self._folder}"
        at = f"{self._folder}/plugins/profile/*/*.trace.json.gz"
        self._say(f"profile of steps {self._first} to {number}: {opened}; or open {at} at ui.perfetto.dev")
