"""The log of a run: a progress bar, JSON lines, TensorBoard scalars and pictures."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from tensorboardX import SummaryWriter

from cffm_jax.runtime.atomic import write_text
from cffm_jax.runtime.progress import Progress
from cffm_jax.training.speed import CAUSES, Clock, Work, device_peak, goodput, in_words, taken_up

LOG = "log.jsonl"


class Figure(Protocol):
    """A figure of a step that was sent to the devices: a jax.Array."""

    def is_ready(self) -> bool: ...

    def block_until_ready(self) -> object: ...


class RunLog:
    """Log of a run in its folder: ``log.jsonl`` and ``tensorboard/``; progress on the terminal.

    What a killed run logged after ``start``, where this one goes on, is dropped: it comes again.

    Of several processes one writes (``writes``), the others say nothing.

    Args:
      began: ``time.perf_counter()`` when this process began with the run; default: now.
      work: what a step computes; without it neither TFLOP/s nor MFU are told.

    Attributes:
      clock: where the wall time of the run goes, that of the processes before included.
    """

    def __init__(
        self,
        workdir: Path,
        steps: int,
        start: int,
        batch_size: int,
        writes: bool = True,
        began: float | None = None,
        work: Work | None = None,
    ):
        self._writes = writes
        before = _drop_after(start, workdir / LOG) if writes else {}
        self.clock = Clock(time.perf_counter() if began is None else began, before)
        self._work = work or Work()
        self._file = (workdir / LOG).open("a", buffering=1) if writes else None
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=start + 1) if writes else None
        self._bar = Progress(total=steps, initial=start, unit="step", desc="train", disable=not writes)
        self._sent: deque[tuple[int, Figure]] = deque()
        self._done: dict[int, float] = {}  # When the figures of steps came.
        self._batch_size = batch_size
        self._waited = 0.0
        self._since = (time.perf_counter(), start)
        if before and start < steps:
            self._times(start, before)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._board is not None and self._file is not None:
            self._board.close()
            self._file.close()

    def waited(self, seconds: float) -> None:
        """Counts what a step waited for its data."""
        self._waited += seconds
        self.clock.add("data", seconds)

    def sent(self, step: int, figure: Figure) -> None:
        """Notes a step that the devices are to do, by one of its figures."""
        self._sent.append((step, figure))

    def done(self, until: int = 0) -> None:
        """Moves the bar by the steps whose figures are there, and one by one as they come by those
        that are waited for, up to the step ``until``."""
        while self._sent and (self._sent[0][0] <= until or self._sent[0][1].is_ready()):
            step, figure = self._sent.popleft()
            figure.block_until_ready()
            self._done[step] = time.perf_counter()
            self._bar.update()

    def restart_clock(self, step: int) -> None:
        """Leaves what came since the last line (compiling, an evaluation) out of the rates."""
        self._waited, self._since = 0.0, (time.perf_counter(), step)
        self._bar.pause()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """A line of training figures; adds clips/s and the share of time spent waiting for data."""
        then, before = self._since
        # On CPUs the next step is done too by the time that a line is written.
        now = self._done.get(step) or time.perf_counter()
        self._done = {later: when for later, when in self._done.items() if later > step}
        seconds, steps = max(now - then, 1e-9), step - before  # No steps: the clock restarted after this one.
        per_second = steps / seconds
        values = {
            **values,
            "clips_per_second": per_second * self._batch_size,
            "data_wait": self._waited / seconds if steps else 0.0,
        }
        if self._work.flops:
            values["tflops"] = per_second * self._work.flops / 1e12
        if self._work.flops and self._work.peak:
            values["mfu"] = per_second * self._work.flops / self._work.peak
        if peak := device_peak():
            values["device_bytes"] = peak
        if steps:
            self._since, self._waited = (now, step), 0.0
        self._write(step, "train", values)
        self._times(step, self.clock.seconds())
        self._bar.set_postfix_str(
            f"loss {values['loss']:.3f}, rate {values['rate']:.1e}, {values['clips_per_second']:.2f} clips/s, "
            f"data wait {100 * values['data_wait']:.1f} %"
            + (f", MFU {100 * values['mfu']:.1f} %" if "mfu" in values else "")
        )

    def evaluation(
        self, step: int, values: dict[str, float], table: str, pictures: Mapping[str, np.ndarray] | None = None
    ) -> None:
        """A line of figures, the table on the terminal, and pictures u8[H,W,3] by name."""
        self._write(step, "eval", values)
        if self._board is not None:
            for name, picture in (pictures or {}).items():
                self._board.add_image(f"eval/{name}", picture, step, dataformats="HWC")
        self.say(f"step {step}:\n{table}")

    def finish(self, step: int, compilations: int, step_bytes: int | None = None) -> None:
        """The last line of times, with how often the step was compiled and what it takes of each
        device's memory, where that is known; and the times in words."""
        seconds = self.clock.seconds()
        known = {} if step_bytes is None else {"step_bytes": step_bytes}
        self._times(step, {**seconds, "compilations": compilations, **known})
        self.say(in_words(seconds))

    def _times(self, step: int, seconds: dict[str, float]) -> None:
        self._write(step, "time", {**seconds, "goodput": goodput(seconds)})

    def say(self, text: str) -> None:
        if self._writes:
            self._bar.write(text)
            sys.stdout.flush()  # Into a file too, before a kill.

    def _write(self, step: int, group: str, values: dict[str, float]) -> None:
        if self._board is None or self._file is None:
            return
        # JSON knows neither nan nor inf.
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps({"step": step, "group": group, **finite}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(f"{group}/{name}", value, step)


def last_times(workdir: Path) -> dict[str, float]:
    """The last line of times of a run that has ended."""
    lines = map(json.loads, (workdir / LOG).read_text().splitlines())
    return [line for line in lines if line["group"] == "time"][-1]


def _drop_after(step: int, path: Path) -> dict[str, float]:
    """Keeps whole lines up to a step; returns the run's seconds so far, as far as the log tells."""
    if not path.exists():
        return {}
    kept, times = [], []
    for line in path.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):  # The last one, which a kill cut off.
            entry = json.loads(line)
            kept += [line + "\n"] if entry["step"] <= step else []
            times += [entry] if entry["group"] == "time" else []
    write_text(path, "".join(kept))
    if not times:
        return {}
    seconds = [{name: entry[name] for name in ("wall", "productive", *CAUSES)} for entry in times]
    return taken_up(seconds[-1], next((s for s, e in zip(seconds[::-1], times[::-1]) if e["step"] <= step), None))
