"""A small CFFM on the built-in videos, from scratch, for `make demo`.

Command:   make demo, or: python train.py --config configs/demo.py --data.root demo/videos
Cost:      about two minutes of training on 2 cores, half of them compiling and the evaluation
Expected:  see docs/demo.md
"""

import synthetic

from cffm_jax.config import Config
from cffm_jax.rules import with_changes


def get_config() -> Config:
    changes = [
        ("workdir", "runs/demo"),
        ("model.depths", (1, 1, 1, 1)),
        ("model.width", 64),
        ("model.blocks", 2),
        ("optim.head_multiplier", 10.0),
        ("train.steps", 260),
        ("train.batch_size", 4),
        ("train.checkpoint_every", 260),
    ]
    return with_changes(synthetic.get_config(), changes)
