"""``train.py``: trains, or resumes the run in ``--workdir``."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import NoReturn

from cffm_jax.config import REQUIRED, ClusterConfig, Config
from cffm_jax.errors import InputError
from cffm_jax.rules import setting, with_changes
from cffm_jax.runtime.command_line import CommandLine, run_command
from cffm_jax.runtime.devices import warn_of_missing_platforms
from cffm_jax.runtime.memory import use_huge_pages
from cffm_jax.runtime.signals import Interruption
from cffm_jax.runtime.xla import cache_compilations, require_determinism
from cffm_jax.settings import Settings, load_recipe


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    config: str = setting("", path=True)
    """Config file, or the name of one of configs/, such as b1_vspw; the options below override its
    fields."""
    settings: Settings = Config()
    cluster: ClusterConfig = ClusterConfig()
    profile: bool = False
    """Write a trace of a few steps to <workdir>/profile."""
    deterministic: bool = False
    """The same bits in every run on GPUs, by XLA's slower kernels; on one core of a CPU it is so
    anyway."""


COMMON = (
    "model.name", "model.num_classes", "model.dtype",
    "data.root", "data.layout", "data.train_split", "data.eval_split", "data.frame_size", "data.crop", "data.workers",
    "optim.rate", "init.encoder", "init.model",
    "train.steps", "train.batch_size", "train.accumulate", "train.devices", "train.eval_every",
    "train.checkpoint_every",
)  # fmt: skip
"""Settings that ``--help`` shows."""


def train_command(argv: Sequence[str]) -> None:
    """``train.py``: trains, or resumes the run in ``--workdir``."""
    line = CommandLine(TrainOptions, argv, "Train a model; the same command resumes a run that stopped.", COMMON)
    config, lines = load_recipe(line.config, line.given) if line.config else (Config(), ())
    options = line.over(TrainOptions(line.config, config))
    if not options.config:
        raise InputError("--config", "is missing", "name one of configs/*.py")
    if not options.settings.init.encoder and config.init.encoder == REQUIRED:
        # Nothing is no answer to the config's question, which has a word for it.
        options = with_changes(options, [("settings.init.encoder", REQUIRED)])
    if options.deterministic:
        require_determinism()
    with Interruption() as interruption:
        with interruption.deferred():  # What is raised within an extension that is being loaded may end in an abort.
            from cffm_jax.runtime.cluster import connected
            from cffm_jax.training.loop import train

        cache_compilations()
        with connected(options.cluster):
            warn_of_missing_platforms()
            train(options.settings, interruption, profile=options.profile, notes=lines)


def main() -> NoReturn:
    """``train.py`` and ``cffm-train``."""
    use_huge_pages()
    sys.exit(run_command(train_command))
