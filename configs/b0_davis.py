"""CFFM with MiT-B0 on DAVIS 2016, with a class for each video's object: b0_camvid on other data.

Command:   python train.py --config configs/b0_davis.py --init.encoder mit_b0.pth
Cost:      10k iterations of 8 clips of 224x416: under three hours at a second each
Expected:  no published figures: the classes are this package's (docs/real_videos.md)
"""

import b0_camvid

from cffm_jax.config import Config
from cffm_jax.rules import with_changes


def get_config() -> Config:
    changes = [
        ("workdir", "runs/cffm_b0_davis"),
        ("data.root", "data/davis"),
        ("data.eval_split", "val"),
        ("train.eval_every", 2_500),
        # At 24 frames a second, the nearest to the papers' 9 6 3 at 15.
        ("data.offsets", (14, 10, 5)),
        # Half of 480p.
        ("data.frame_size", (240, 427)),
        ("data.crop", (224, 416)),
        # In 98 % of the frames background covers more than the default share: nearly all crops
        # would be redrawn.
        ("data.max_class_share", 1.0),
    ]
    return with_changes(b0_camvid.get_config(), changes)
