"""``eval.py``: figures of a checkpoint or of predictions on disk, or a submission."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from cffm_jax.config import Config
from cffm_jax.errors import InputError
from cffm_jax.evaluation.options import EvalOptions
from cffm_jax.runtime.command_line import parse_command, run_command
from cffm_jax.runtime.memory import use_huge_pages
from cffm_jax.runtime.signals import Interruption
from cffm_jax.runtime.xla import cache_compilations
from cffm_jax.settings import load_config

_SUBMITTED = "test"
"""The split that ``--submission`` takes unless another is named."""


def eval_command(argv: Sequence[str]) -> None:
    """``eval.py``: figures of a checkpoint or of predictions on disk, or a submission."""

    def parsed(config_of: Callable[[str], Config], split: str = "") -> EvalOptions:
        def default(path: str) -> EvalOptions:
            config = config_of(path)
            data = dataclasses.replace(config.data, eval_split=split or config.data.eval_split)
            return EvalOptions(path, settings=dataclasses.replace(config, data=data))

        description = "Evaluate a checkpoint, or predictions that another program wrote."
        options = parse_command(EvalOptions, argv, default, description)
        # Another default, on top of which --data.eval_split still goes.
        return parsed(config_of, _SUBMITTED) if options.submission and not split else options

    options = parsed(lambda path: load_config(path) if path else Config())
    if bool(options.checkpoint) == bool(options.predictions):
        raise InputError("--checkpoint", "give either this or --predictions", "name a run's folder or a folder of PNGs")
    with Interruption() as interruption:
        with interruption.deferred():  # As above.
            from cffm_jax.evaluation.command import evaluate_checkpoint, require_apart, score_predictions
            from cffm_jax.runtime.cluster import connected

        require_apart(options)
        if options.predictions:
            score_predictions(options, interruption)
            return
        cache_compilations()
        with connected(options.cluster):
            evaluate_checkpoint(options, lambda config: parsed(lambda _: config), interruption)


def main() -> NoReturn:
    """``eval.py`` and ``cffm-eval``."""
    use_huge_pages()
    sys.exit(run_command(eval_command))
