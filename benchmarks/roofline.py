"""What the programs of the package would cost on a GPU, with none at hand: predictions, not measurements.

    python benchmarks/roofline.py                                                     # an H200, bfloat16, B1
    python benchmarks/roofline.py --target l4 --programs stream chunk --dtypes float32 bfloat16
    python benchmarks/roofline.py --programs stream training --picture roofline.png

Each program is compiled for the GPU by XLA (``make install-cuda-compile`` installs JAX's compiler for CUDA alone) and
its kernels are counted in the optimised program. "roof": every kernel takes its bytes over the bandwidth or its
operations over the peak, whichever is longer; "with launches": and 2.5 us at least. Bandwidth and peaks are NVIDIA's
figures less an assumed share that no kernel reaches. Caches, tuning and waits of the host are not in it.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The compiler for CUDA lies in a folder of its own: where JAX always finds it, it asks for a GPU at every start.
sys.path.append(str(Path(sys.prefix) / "cuda-compile"))

import jax
from gpu import costs, parts
from gpu.plot import Dot, in_rows, roofline_plot
from gpu.programs import Sizes, programs
from gpu.targets import COMPILER_OPTIONS, LAUNCH_SECONDS, MEASURABLE, TARGETS, Target, topology
from model import fixed, header, line

from cffm_jax.drawing.sheets import write_png
from cffm_jax.errors import InputError
from cffm_jax.rules import setting
from cffm_jax.runtime.command_line import parse_command, run_command

MIB = 2**20
_TEMPORARY = "// temporary bytes: "
"""Begins the first line of a text that is kept."""
_SHOWN = 0.98
"""Share of the time whose kernels are in the picture."""


@dataclasses.dataclass(frozen=True)
class Options:
    target: Literal["h200", "h100", "a100", "l4", "rtx4090"] = "h200"
    """The GPU: H200, H100 (both SXM), A100 80GB (SXM), L4, RTX 4090."""
    programs: tuple[str, ...] = ("stream", "chunk", "chunk-cffmpp", "training", "second-stage", "k-means")
    """Names of benchmarks/gpu/programs.py."""
    backbones: tuple[Literal["b0", "b1", "b2", "b3", "b4", "b5"], ...] = ("b1",)
    """Of the networks."""
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("bfloat16",)
    """Compute types; products of float32 are TF32."""
    frame: tuple[int, int] = (480, 853)
    """Height and width of frames and masks."""
    crop: tuple[int, int] = (480, 480)
    """Height and width of training clips, multiples of 32."""
    chunk: int = 8
    """Frames in a call of whole videos."""
    clips: int = 8
    """Clips in a training step."""
    kernels: int = 0
    """Show each program's parts, and so many of its largest kernels."""
    picture: str = setting("", path=True)
    """Draw a roofline plot of each program into this PNG."""
    texts: str = setting("", path=True)
    """Keep the compiled programs (HLO) in this folder, and read those that are there instead of compiling."""
    json: str = setting("", path=True)
    """Write everything to this file too, every kernel included."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A program's prediction. ``host_waits``: how often the host waits to learn what runs next, which is in no time;
    ``temporary``: bytes of memory for what is computed in between."""

    program: str
    backbone: str
    dtype: str
    costs: costs.Summary
    temporary: int
    host_waits: float
    kernels: list[costs.Kernel]

    @property
    def title(self) -> str:
        return f"{self.program} {self.backbone.upper()}, {self.dtype}"


@functools.cache
def devices(target: str) -> Sequence[jax.Device]:
    """Two, for the programs that share a step."""
    return topology(TARGETS[target], 2).devices


def compiled_text(options: Options, program: str, backbone: str, dtype: str) -> str:
    """The optimised program, after a line with the bytes of its temporary memory."""
    sizes = Sizes(options.frame, options.crop, options.chunk, options.clips)
    made = programs(devices(options.target), backbone, dtype, sizes)
    if program not in made:
        raise InputError("--programs", f"there is no {program}", f"give some of {', '.join(made)}")
    lowered = made[program].lower()
    # By what is compiled and by which XLA: a text of an earlier program is not read.
    digest = hashlib.sha256(f"{jax.lib.__version__}\n{lowered.as_text()}".encode()).hexdigest()[:12]
    kept = Path(options.texts) / f"{program}-{backbone}-{dtype}-{options.target}-{digest}.hlo"
    if options.texts and kept.is_file():
        return kept.read_text()
    compiled = lowered.compile(COMPILER_OPTIONS)
    text = f"{_TEMPORARY}{compiled.memory_analysis().temp_size_in_bytes}\n{compiled.as_text()}"
    if options.texts:
        kept.write_text(text)
    return text


def predict(options: Options, program: str, backbone: str, dtype: str) -> Row:
    text = compiled_text(options, program, backbone, dtype)
    temporary = int(text.splitlines()[0].removeprefix(_TEMPORARY))
    kernels = costs.kernels(text)
    total = costs.summary(kernels, TARGETS[options.target])
    waits = sum(loop.waits for loop in costs.loops(text))
    return Row(program, backbone, dtype, total, temporary, waits, kernels)


def print_row(row: Row) -> None:
    total = row.costs
    line(
        row.program, row.backbone.upper(), row.dtype, f"{total.launches:.0f}", fixed(total.bytes, 2, 1e9),
        fixed(row.temporary, 0, MIB), fixed(total.roof_ms, 2), fixed(total.launch_ms, 2), f"{row.host_waits:.0f}",
    )  # fmt: skip


def print_kernels(row: Row, target: Target, most: int) -> None:
    """The program's parts, and its largest kernels, those that differ in their block alone in one row."""
    print(f"\n{row.title}: parts (prediction)")
    header("part", "launches", "GB", "Gop", "ms", "waits for, % of the time")
    for part, total in parts.by_part(row.kernels, target).items():
        words = ", ".join(f"{waits} {100 * ms / total.launch_ms:.0f}" for waits, ms in total.waiting.items())
        line(part, *_figures(total), words)
    print(f"\n{row.title}: largest kernels (prediction)")
    header("part", "operation", "launches", "GB", "Gop", "ms", "waits for", "kernel", "result")
    for kind, total in parts.alike(row.kernels, target)[:most]:
        line(kind.part, kind.operation, *_figures(total), kind.waits_for, kind.kind, kind.shape)


def _figures(total: costs.Summary) -> tuple[str, ...]:
    """Launches, GB, operations in 1e9, ms with launches."""
    sizes = total.bytes / 1e9, total.operations / 1e9, total.launch_ms
    return f"{total.launches:.0f}", *(f"{size:.3f}" for size in sizes)


def picture_of(row: Row, target: Target) -> Any:
    """The program's panel, of the kernels that take most of the time and compute something."""
    dots, ms = [], 0.0
    for kind, total in parts.alike(row.kernels, target):
        ms += total.launch_ms
        if total.operations and ms <= _SHOWN * row.costs.launch_ms:
            rate, intensity = 1e3 * total.operations / total.launch_ms, total.operations / total.bytes
            dots.append(Dot(f"{kind.part}, {kind.operation}", intensity, rate, total.launch_ms, kind.waits_for))
    moving = costs.summary((each for each in row.kernels if not each.operations), target).launch_ms
    note = f"{row.costs.launch_ms:.2f} ms in {row.costs.launches:.0f} launches; a dot's area is its share of the time. "
    note += f"Not shown: {moving:.2f} ms of kernels that only move data"
    return roofline_plot(target, row.title, dots, note)


def check(options: Options) -> None:
    for path in filter(None, (options.json, options.picture)):
        if not Path(path).absolute().parent.is_dir():
            raise InputError(path, "its folder does not exist", "make it first")
    if options.texts:
        Path(options.texts).mkdir(parents=True, exist_ok=True)


def main(argv: Sequence[str]) -> None:
    options = parse_command(Options, argv, lambda _: Options(), __doc__)
    check(options)
    target = TARGETS[options.target]
    about = {
        "prediction": "from compiled programs; nothing of this was measured",
        "target": f"{target.title} ({target.source})",
        "assumed": f"{100 * MEASURABLE['bandwidth']:.0f} % of its bandwidth and of its float32 peak, "
        f"{100 * MEASURABLE['products']:.0f} % of its dense tensor peaks, {1e6 * LAUNCH_SECONDS:g} us a launch, "
        f"{costs.UNKNOWN_TRIPS} rounds of loops of unknown length",
        "sizes": f"frames {options.frame[0]}x{options.frame[1]}, {options.chunk} in a call of whole videos; "
        f"{options.clips} clips of {options.crop[0]}x{options.crop[1]} in a training step",
        "jax": jax.__version__,
        "date": datetime.date.today().isoformat(),
        "command": shlex.join(["python", "benchmarks/roofline.py", *argv]),
    }
    print("\n".join(f"- {key}: {value}" for key, value in about.items()))
    header(
        "program", "backbone", "dtype", "launches", "GB", "temporary, MiB", "roof, ms", "with launches, ms",
        "waits of the host",
    )  # fmt: skip
    rows: list[Row] = []
    for program in options.programs:
        for backbone in options.backbones:
            for dtype in options.dtypes:
                rows.append(predict(options, program, backbone, dtype))
                print_row(rows[-1])
                if options.json:  # after every row: a long run may not reach its end
                    result = {"environment": about, "options": dataclasses.asdict(options)}
                    result["programs"] = [dataclasses.asdict(row) for row in rows]
                    Path(options.json).write_text(json.dumps(result, indent=1) + "\n")
    if options.kernels:
        for row in rows:
            print_kernels(row, target, options.kernels)
    if options.picture:
        write_png(options.picture, in_rows([picture_of(row, target) for row in rows]))


if __name__ == "__main__":
    sys.exit(run_command(main))
