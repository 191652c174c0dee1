"""What the parts share: sizes, frames, clocks."""

from __future__ import annotations

import gc
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

T = TypeVar("T")


def stand_in_for_tyro() -> None:
    """Lets modules of the package be imported that define options. None is read here, so that a machine that was lent
    needs no tyro; whatever reads them fails."""
    conf = types.SimpleNamespace(Positional=Annotated[T, "positional"], arg=lambda **_: None)
    constructors = types.ModuleType("tyro.constructors")
    for name in ("ConstructorRegistry", "PrimitiveConstructorSpec", "PrimitiveTypeInfo"):
        setattr(constructors, name, object)
    tyro = types.ModuleType("tyro")
    vars(tyro).update(conf=conf, constructors=constructors, MISSING=object())
    sys.modules |= {"tyro": tyro, "tyro.constructors": constructors}


try:
    import tyro  # noqa: F401  # Whether it is there.
except ModuleNotFoundError:
    stand_in_for_tyro()

import inference
import jax
from model import MIB, environment

from cffm_jax.data.synthetic.generate import SyntheticConfig, write_video
from cffm_jax.training.speed import device_peak
from gpu_checks.rows import Row


def about() -> dict[str, Any]:
    """The device, by model.py's words for it, but for its command."""
    return {name: value for name, value in environment([]).items() if name != "command"}


def forget() -> None:
    """Frees what a part left on the device."""
    jax.clear_caches()
    gc.collect()


class Bench:
    """A part's sizes, and where its rows go; the first of its types has the rows of which there is one type alone."""

    def __init__(self, part: str, tiny: bool, folder: Path, send: Callable[[Row], None]):
        self.part, self.tiny, self.folder, self._send = part, tiny, folder, send
        self.size = (96, 96) if tiny else (480, 853)
        self.crop = (64, 64) if tiny else (480, 480)
        self.backbone = "b0" if tiny else "b1"
        # A CPU compiles and computes bfloat16 slowly.
        self.dtypes = ("float32",) if tiny else ("bfloat16", "float32")
        self.seconds, self.calls = (0.0, 1) if tiny else (2.0, 5)

    def report(self, what: str, value: float | bool | str, unit: str = "", note: str = "") -> None:
        self._send(Row(self.part, what, value, unit, note))

    def scene(self) -> Path:
        """The folder with the frames; they are made when they are first asked for."""
        if not (self.folder / "frames").exists():
            config = SyntheticConfig(frames=inference.FRAMES, height=self.size[0], width=self.size[1])
            write_video(self.folder, config, "val", 0)
            next(self.folder.glob("data/*/origin")).rename(self.folder / "frames")
        return self.folder

    def times(self, call: Callable[[], Any], seconds: float | None = None) -> list[float]:
        """Milliseconds of calls that each end with their result there; two go before."""
        seconds, times = self.seconds if seconds is None else seconds, []
        while len(times) < self.calls + 2 or sum(times[2:]) < 1e3 * seconds:
            began = time.perf_counter()
            jax.block_until_ready(call())
            times.append(1e3 * (time.perf_counter() - began))
        return times[2:]

    def queued(
        self, call: Callable[[], Any], wait: Callable[[Any], Any] = jax.block_until_ready, seconds: float | None = None
    ) -> float:
        """Milliseconds of a call where many are queued and the last one is waited for; two go before."""
        wait(call())
        began = time.perf_counter()
        wait(call())
        once = time.perf_counter() - began
        count = max(self.calls, min(500, int((self.seconds if seconds is None else seconds) / once)))
        began = time.perf_counter()
        for _ in range(count):
            result = call()
        wait(result)
        return 1e3 * (time.perf_counter() - began) / count


def median(times: list[float]) -> float:
    return statistics.median(times)


def peak(used: int | None = None) -> str:
    """The device's peak, or ``used``, in words; "" where the backend does not tell."""
    used = used or device_peak()
    return f"device peak so far {used / MIB:,.0f} MiB" if used else ""
