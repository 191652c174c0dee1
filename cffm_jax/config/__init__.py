"""Every setting of a run, with its default: the only place where defaults are written down.

A config file (``configs/*.py``) defines ``get_config() -> Config``, or a function of the command
line (`settings.load_recipe`), and changes fields with ``dataclasses.replace``. The comments under
the fields are the command line's help; beside the default stands what else is known of a setting,
first of all the rule for its value (`cffm_jax.rules.About`).
"""

from __future__ import annotations

import dataclasses

from cffm_jax.config.cluster import ClusterConfig
from cffm_jax.config.data import IGNORED_LABEL, DataConfig, LayoutName, require_channels
from cffm_jax.config.evaluation import TILE, EvalConfig
from cffm_jax.config.model import POOLINGS, ModelConfig, PrototypeConfig
from cffm_jax.config.training import NOTHING, REQUIRED, InitConfig, LossConfig, OptimConfig, TrainConfig
from cffm_jax.rules import about, setting

__all__ = [
    "EVALUATED",
    "IGNORED_LABEL",
    "NOTHING",
    "POOLINGS",
    "REQUIRED",
    "SECTIONS",
    "SETTINGS",
    "TILE",
    "ClusterConfig",
    "Config",
    "DataConfig",
    "EvalConfig",
    "InitConfig",
    "LayoutName",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "PrototypeConfig",
    "TrainConfig",
    "require_channels",
]


@dataclasses.dataclass(frozen=True)
class Config:
    workdir: str = setting("runs/cffm_b1_vspw", changes="figures", set_by_study=True, path=True)
    """Folder of the run: checkpoints, logs, results."""
    model: ModelConfig = setting(ModelConfig(), evaluated=True)
    data: DataConfig = setting(DataConfig(), evaluated=True)
    optim: OptimConfig = OptimConfig()
    init: InitConfig = InitConfig()
    prototypes: PrototypeConfig = setting(PrototypeConfig(), evaluated=True, part="method")
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = setting(EvalConfig(), evaluated=True)


SETTINGS = about(Config)
"""All settings by dotted name."""
SECTIONS = tuple(field.name for field in dataclasses.fields(Config) if field.name != "workdir")
EVALUATED = tuple(dict.fromkeys(name.partition(".")[0] for name, known in SETTINGS.items() if known.evaluated))
"""The sections that an evaluation reads."""
