"""What a run says while it goes on: a progress bar, JSON lines and TensorBoard scalars."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from pathlib import Path

from tensorboardX import SummaryWriter
from tqdm import tqdm


class RunLog:
    """Log of a run in its folder: ``log.jsonl`` and ``tensorboard/``; progress on the terminal.

    What a killed run logged after step ``start``, from which this one goes on, is dropped: it comes again.

    Of several processes one writes (``writes``), the others say nothing.
    """

    def __init__(
        self, workdir: Path, steps: int, start: int, batch_size: int, progress: bool = True, writes: bool = True
    ):
        self._writes, progress = writes, progress and writes
        if writes:
            _drop_after(start, workdir / "log.jsonl")
        self._file = (workdir / "log.jsonl").open("a", buffering=1) if writes else None
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=start + 1) if writes else None
        self._bar = tqdm(total=steps, initial=start, unit="step", desc="train", disable=not progress)
        self._batch_size = batch_size
        self._waited = 0.0
        self._since = (time.perf_counter(), start)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._writes:
            self._board.close()
            self._file.close()

    def step(self, waited: float) -> None:
        """Counts a step that waited so many seconds for its data."""
        self._waited += waited
        self._bar.update()

    def restart_clock(self) -> None:
        """Leaves what came since the last line (compiling, an evaluation) out of the rates."""
        self._waited, self._since = 0.0, (time.perf_counter(), self._bar.n if not self._bar.disable else self._since[1])

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """A line of training figures; adds clips/s and the share of the time that was spent waiting for data."""
        then, before = self._since
        now = time.perf_counter()
        values = {
            **values,
            "clips_per_second": (step - before) * self._batch_size / max(now - then, 1e-9),
            "data_wait": self._waited / max(now - then, 1e-9),
        }
        self._since, self._waited = (now, step), 0.0
        self._write(step, "train", values)
        self._bar.set_postfix_str(
            f"loss {values['loss']:.3f}, rate {values['rate']:.1e}, {values['clips_per_second']:.2f} clips/s, "
            f"data wait {100 * values['data_wait']:.1f} %"
        )

    def evaluation(self, step: int, values: dict[str, float], table: str) -> None:
        """A line of figures and the table on the terminal."""
        self._write(step, "eval", values)
        self.say(f"step {step}:\n{table}")

    def say(self, text: str) -> None:
        if self._writes:
            self._bar.write(text)
            sys.stdout.flush()  # Into a file too, before a kill.

    def _write(self, step: int, group: str, values: dict[str, float]) -> None:
        if not self._writes:
            return
        # JSON knows neither nan nor inf.
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps({"step": step, "group": group, **finite}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(f"{group}/{name}", value, step)


def _drop_after(step: int, path: Path) -> None:
    """Keeps the whole lines up to a step."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):  # The last one, which a kill cut off.
            kept += [line + "\n"] if json.loads(line)["step"] <= step else []
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text("".join(kept))
    partial.replace(path)
