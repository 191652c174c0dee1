"""``eval.py``: figures of a checkpoint or of predictions on disk, or a submission."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from cffm_jax.config import Config
from cffm_jax.errors import InputError
from cffm_jax.evaluation.options import EvalOptions, require_apart
from cffm_jax.rules import require_together, with_changes
from cffm_jax.runtime.command_line import CommandLine, run_command
from cffm_jax.runtime.devices import warn_of_missing_platforms
from cffm_jax.runtime.memory import use_huge_pages
from cffm_jax.runtime.signals import Interruption
from cffm_jax.runtime.xla import cache_compilations
from cffm_jax.settings import load_config

_SUBMITTED = "test"
"""The split that ``--submission`` takes unless another is named."""

COMMON = (
    "data.root", "data.layout",
    "eval.prototypes", "eval.devices", "eval.max_videos", "eval.tile_size", "eval.overlap",
)  # fmt: skip
"""Settings that ``--help`` shows."""


def eval_command(argv: Sequence[str]) -> None:
    """``eval.py``: figures of a checkpoint or of predictions on disk, or a submission."""
    description = "Evaluate a checkpoint, or predictions that another program wrote: mIoU, VC (video consistency), ..."
    line = CommandLine(EvalOptions, argv, description, COMMON)

    def with_config(config: Config) -> EvalOptions:
        if line.given.get("submission"):  # Another default, on top of which --split still goes.
            config = with_changes(config, [("data.eval_split", _SUBMITTED)])
        options = line.over(EvalOptions(settings=config))
        return with_changes(options, [("settings.data.eval_split", options.split)] if options.split else [])

    if len({line.given[name] for name in ("split", "data.eval_split") if name in line.given}) > 1:
        raise InputError("--split", "given together with another --data.eval-split", "give one of them")
    options = with_config(load_config(line.config, line.given) if line.config else Config())
    if bool(options.checkpoint) == bool(options.predictions):
        raise InputError("--checkpoint", "give either this or --predictions", "name a run's folder or a folder of PNGs")
    with Interruption() as interruption:
        with interruption.deferred():  # As above.
            from cffm_jax.evaluation.checkpoint import evaluate_checkpoint
            from cffm_jax.evaluation.predictions import evaluate_predictions
            from cffm_jax.runtime.cluster import connected

        require_apart(options)
        require_together(options)
        if options.predictions:
            evaluate_predictions(options, interruption)
            return
        cache_compilations()
        with connected(options.cluster):
            warn_of_missing_platforms()
            evaluate_checkpoint(options, with_config, interruption)


def main() -> NoReturn:
    """``eval.py`` and ``cffm-eval``."""
    use_huge_pages()
    sys.exit(run_command(eval_command))
