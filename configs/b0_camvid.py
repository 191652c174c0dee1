"""CFFM with MiT-B0 on CamVid: b1_camvid with another backbone.

Command:   python train.py --config configs/b0_camvid.py --init.encoder mit_b0.pth
Cost:      10k iterations of 8 clips of 352x480
Expected:  no figure of CFFM is published (docs/real_videos.md)
"""

import b1_camvid

from cffm_jax.config import Config
from cffm_jax.rules import with_changes


def get_config() -> Config:
    changes = [("workdir", "runs/cffm_b0_camvid"), ("model.name", "cffm_b0")]
    return with_changes(b1_camvid.get_config(), changes)
