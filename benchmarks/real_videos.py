"""SegFormer-B0, CFFM-B0 and CFFM++-B0 from scratch on real videos, CamVid and DAVIS (docs/real_videos.md): trains them
for several seeds, evaluates them, once more with each frame as its own references, and draws tables and pictures.

    python benchmarks/real_videos.py --camvid data/camvid --davis data/davis --folder studies/real
    python benchmarks/real_videos.py --folder studies/real --part draw    # what is there so far

The same command goes on where it was: nothing is trained or evaluated twice. After each seed ``results.md``,
``curves.png`` and ``strip.webp`` in the folder are those of all that is there; the tables are printed too.
"""

from __future__ import annotations

import dataclasses
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from real import pictures, tables
from real.plan import (
    DATASETS,
    RECIPE,
    SPLITS,
    SYSTEMS,
    Evaluated,
    figures_file,
    finished_runs,
    masks_folder,
    references_of,
)

from cffm_jax.drawing.sheets import write_png
from cffm_jax.rules import setting
from cffm_jax.runtime.atomic import write_text
from cffm_jax.runtime.command_line import parse_command, run_command

EVAL = Path(__file__).resolve().parents[1] / "eval.py"


@dataclasses.dataclass(frozen=True)
class Options:
    camvid: str = setting("data/camvid", path=True)
    """The imported dataset."""
    davis: str = setting("data/davis", path=True)
    """The imported dataset."""
    folder: str = setting("studies/real", path=True)
    """Where everything goes."""
    seeds: tuple[int, ...] = setting((0, 1, 2), least=0)
    """Every network is trained for each; masks in the strip are of the first."""
    steps: int = setting(0, least=0)
    """Training iterations of each dataset; 0: the plan's (benchmarks/real/plan.py)."""
    part: Literal["all", "evaluate", "draw"] = "all"
    """evaluate: train nothing; draw: nor evaluate."""


def run(*words: object) -> None:
    """Shows and runs a command, whose failure ends this one with its status."""
    command = [*map(str, words)]
    print(f"\n$ python {shlex.join(command)}", flush=True)
    status = subprocess.run([sys.executable, *command], check=False).returncode
    if status:
        sys.exit(status)


def train(options: Options, dataset: str, seeds: Sequence[int]) -> None:
    """Trains the systems with these seeds, but those that are there."""
    plan = DATASETS[dataset]
    rows = (title.lower() for title in SYSTEMS.values())
    run(
        "-m", "cffm_jax.study", "table1", "--rows", *rows, *plan.options, *RECIPE,
        "--data.root", getattr(options, dataset), "--train.steps", options.steps or plan.steps, "--seeds", *seeds,
        "--folder", Path(options.folder) / dataset,
    )  # fmt: skip


def evaluate(options: Options, of: Evaluated, seeds: Sequence[int]) -> None:
    """Evaluates the runs that are there on a split, but what was evaluated before."""
    folder = Path(options.folder)
    for model, runs in finished_runs(folder, of.dataset, seeds).items():
        for seed, workdir in runs.items():
            for references in references_of(model, of):
                output, masks = figures_file(folder, of, model, seed, references), masks_folder(folder, of, model, seed)
                drawn = of.strip and seed == options.seeds[0] and references is of.references[0]
                if output.is_file() and (masks.is_dir() or not drawn):
                    continue
                output.parent.mkdir(parents=True, exist_ok=True)
                if drawn:  # A run may have ended between its masks and its figures.
                    shutil.rmtree(masks, ignore_errors=True)
                run(
                    EVAL, "--checkpoint", workdir, "--data.root", getattr(options, of.dataset), "--split", of.split,
                    *references.options, "--output", output, *(("--save-predictions", masks) if drawn else ()),
                )  # fmt: skip


def draw(options: Options) -> None:
    """Tables and pictures of all that is there."""
    folder = Path(options.folder)
    text = "\n\n".join(filter(None, (tables.markdown(folder, of, options.seeds) for of in SPLITS)))
    if not text:
        print("nothing was evaluated yet")
        return
    write_text(folder / "results.md", f"{text}\n")
    print(f"\n{text}\n")
    runs = {dataset: finished_runs(folder, dataset, options.seeds) for dataset in DATASETS}
    write_png(folder / "curves.png", pictures.curves(runs))
    roots = {dataset: getattr(options, dataset) for dataset in DATASETS}
    strip = pictures.strip(folder, runs, roots, options.seeds[0])
    if strip is not None:
        pictures.write_webp(folder / "strip.webp", strip)
    print(f"tables and pictures written to {folder}")


def main(argv: Sequence[str]) -> None:
    options = parse_command(Options, argv, lambda _: Options(), __doc__)
    for i in range(len(options.seeds)) if options.part != "draw" else ():
        seeds = options.seeds[: i + 1]
        for dataset in DATASETS if options.part == "all" else ():
            train(options, dataset, seeds)
        for of in SPLITS:
            evaluate(options, of, seeds)
        draw(options)
    if options.part == "draw":
        draw(options)


if __name__ == "__main__":
    sys.exit(run_command(main))
