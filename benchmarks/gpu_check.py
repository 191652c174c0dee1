"""What a GPU tells of the package in nine minutes: right or wrong, how fast, how much memory.

    python benchmarks/gpu_check.py --json gpu.json       # on the machine with the GPU
    python benchmarks/gpu_check.py --parts golden clip   # some parts alone; --list names them
    python benchmarks/gpu_check.py --tiny                # small sizes, to try the parts on a CPU

The parts run in their order in a process beside, results as they come, and once more as a table at the end, with the
ratios of the speeds. A part that fails costs its own results, as does one that outlasts its limit; one for which too
little of the budget is left is not begun. Programs that were compiled before come from a cache on disk. It needs jax,
flax, optax, orbax, numpy, opencv and Pillow, for its ratios torch and transformers; no installed package, no data.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

# The package need not be installed. Its folder comes after this one: both have a train.py.
sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from gpu_checks.rows import HEADER, Row, ratios
from gpu_checks.workers import Part, run_parts

from cffm_jax.errors import InputError

PARTS = {
    "device": Part("gpu_checks.device:rates", 60, 20),
    "golden": Part("gpu_checks.golden:values", 150, 40),
    "clip": Part("gpu_checks.segment:clip", 120, 40),
    "offline-8": Part("gpu_checks.segment:offline_8", 110, 40),
    "stream": Part("gpu_checks.segment:stream", 90, 30),
    "train": Part("gpu_checks.train:training", 170, 60),
    "torch": Part("gpu_checks.segment:torch_eager", 60, 25, alone=True),
    "torch-compiled": Part("gpu_checks.segment:torch_compiled", 150, 50, alone=True),
    "k-means": Part("gpu_checks.train:clustering", 40, 15),
    "profile": Part("gpu_checks.device:profile", 70, 30),
    "offline-1": Part("gpu_checks.segment:offline_1", 80, 30),
    "offline-16": Part("gpu_checks.segment:offline_16", 110, 40),
    "streams": Part("gpu_checks.segment:streams", 60, 25),
    "plus-plus": Part("gpu_checks.segment:plus_plus", 120, 45),
    "train-float32": Part("gpu_checks.train:float32", 150, 60),
    "train-plus-plus": Part("gpu_checks.train:plus_plus", 90, 40),
    "train-remat": Part("gpu_checks.train:remat", 150, 60),
    "sizes": Part("gpu_checks.segment:sizes", 200, 60),
}
"""In the order of what is most wanted: what the budget has no time for is missing at the end."""
CACHE = Path(tempfile.gettempdir()) / "cffm_jax_gpu_check"


class _Parser(argparse.ArgumentParser):
    """Not ``parse_command``: that needs tyro, which a machine that was lent may lack."""

    def error(self, message: str) -> NoReturn:
        raise InputError("command line", message, "see --help")


def options_of(argv: Sequence[str], parts: Mapping[str, Part]) -> argparse.Namespace:
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=list(parts), metavar="PART", help="some of --list, in this order")
    parser.add_argument("--budget", type=float, default=540.0, metavar="SECONDS", help="for all parts together")
    parser.add_argument("--json", default="", metavar="FILE", help="write everything to it too, after every result")
    parser.add_argument("--tiny", action="store_true", help="small sizes, for a CPU")
    parser.add_argument("--list", action="store_true", help="name the parts with their limits, and end")
    options = parser.parse_args(argv)
    unknown = [name for name in options.parts if name not in parts]
    if unknown:
        raise InputError("--parts", f"there is no part {unknown[0]}", f"give some of {', '.join(parts)}")
    if options.json and not Path(options.json).absolute().parent.is_dir():
        raise InputError(options.json, "its folder does not exist", "make it first")
    return options


def check(argv: Sequence[str], parts: Mapping[str, Part] = PARTS) -> int:
    """Runs the command with these parts. Returns its exit status: 1 if a part failed or a check was not passed."""
    options = options_of(argv, parts)
    if options.list:
        for name, part in parts.items():
            print(f"{name:16} at most {part.limit:3.0f} s, begun with {part.least:2.0f} s left")
        return 0
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
    environment: dict[str, Any] = {"command": shlex.join(["python", "benchmarks/gpu_check.py", *argv])}
    rows: list[Row] = []

    def write() -> None:
        if options.json:  # After every row: what ends the command costs no results.
            result = {"environment": environment, "options": vars(options), "rows": [row._asdict() for row in rows]}
            Path(options.json).write_text(json.dumps(result, indent=2) + "\n")

    def keep(row: Row) -> None:
        rows.append(row)
        print(f"{row.part:16} {row.what}: {row.shown}" + (f" ({row.note})" if row.note else ""), flush=True)
        write()

    def about(device: Mapping[str, Any]) -> None:
        environment.update(device)
        print("\n".join(f"- {name}: {value}" for name, value in environment.items()), flush=True)

    status = 0
    with tempfile.TemporaryDirectory() as folder:
        try:
            run_parts(parts, options.parts, options.budget, options.tiny, Path(folder), keep, about)
        except KeyboardInterrupt:
            status = 130
    rows += ratios(rows)
    write()
    print("\n" + "\n".join([HEADER, *(row.line for row in rows)]))
    return status or int(any(row.wrong for row in rows))


def main(argv: Sequence[str], parts: Mapping[str, Part] = PARTS) -> int:
    try:
        return check(argv, parts)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
