"""Trains and measures the papers' systems and ablations in small for several seeds, beside
published figures.

    python -m cffm_jax.study table1
    python -m cffm_jax.study table8 --seeds 0 1 2
    python -m cffm_jax.study table8 --rows A C F --config configs/synthetic.py --train.steps 900

Rows of one network share a run; finished ones are kept, interrupted ones go on at their last
checkpoint. ``<folder>/<table>.json`` holds the figures, ``<folder>/<network>/seed<s>/`` each run.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from cffm_jax.data.layouts.classes import with_num_classes
from cffm_jax.data.synthetic import generate
from cffm_jax.runtime.atomic import write_json
from cffm_jax.runtime.command_line import CommandLine
from cffm_jax.runtime.devices import warn_of_missing_platforms
from cffm_jax.runtime.xla import cache_compilations
from cffm_jax.settings import find_config, load_config
from cffm_jax.study.plan import DEFAULT_CONFIG, StudyOptions, distinct_runs, prepare
from cffm_jax.study.results import markdown, measure, results


def conduct(options: StudyOptions) -> None:
    """Trains what is missing, seed after seed, and prints and keeps the tables after each seed."""
    studies = prepare(options)
    cache_compilations()
    warn_of_missing_platforms()
    root = Path(options.settings.data.root)
    if find_config(options.config).resolve() == find_config(DEFAULT_CONFIG).resolve() and not root.exists():
        generate.generate(root, generate.SyntheticConfig())
    per_seed = [distinct_runs(studies, i) for i in range(len(options.seeds))]
    total, done = sum(map(len, per_seed)), 0
    for i, runs in enumerate(per_seed):
        for run, rows in runs:
            done += 1
            state = "done already" if run.result.is_file() else f"{run.config.train.steps} steps"
            print(f"run {done} of {total}: {run.workdir} ({', '.join(rows) or 'a base'}), {state}", flush=True)
            measure(run)
        for study in studies:
            tree = {
                "table": study.table.name,
                "seeds": options.seeds[: i + 1],
                "settings": dataclasses.asdict(options.settings),
                "rows": results(study, i + 1),
            }
            write_json(Path(options.folder) / f"{study.table.name}.json", tree, "name another --folder")
            print(f"\n{markdown(study, options, i + 1)}\n", flush=True)


def main(argv: Sequence[str]) -> None:
    """Train and measure the rows of the papers' tables on any videos; the same command goes on
    where it stopped."""

    line = CommandLine(StudyOptions, argv, main.__doc__)
    path = line.config or DEFAULT_CONFIG
    options = line.over(StudyOptions(config=path, settings=load_config(path, line.given)))
    options = dataclasses.replace(options, settings=with_num_classes(options.settings))
    try:
        conduct(options)
    except KeyboardInterrupt:
        print("stopped: the same command goes on where it was", file=sys.stderr)
        sys.exit(130)
