"""CFFM with MiT-B1 on one's own videos: sizes, steps, rate and so on are taken from the data.

Command:   python train.py --config configs/finetune.py --data.root ROOT --init.encoder mit_b1.pth
Cost:      about 100 passes over the labelled frames, 1000 to 40000 steps
Expected:  no published figures: the data are one's own (docs/your_data.md)
"""

from collections.abc import Mapping
from typing import Any

from cffm_jax.config import REQUIRED, Config, DataConfig, InitConfig
from cffm_jax.training.recipe import fitted


def get_config(given: Mapping[str, Any]) -> tuple[Config, tuple[str, ...]]:
    data = DataConfig(root="", layout="folder")
    return fitted(Config(workdir="runs/finetune", data=data, init=InitConfig(encoder=REQUIRED)), given)
