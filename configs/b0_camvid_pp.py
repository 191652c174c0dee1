"""CFFM++ with MiT-B0 on CamVid: b1_camvid_pp with another backbone.

Command:   python train.py --config configs/b0_camvid_pp.py --init.model runs/cffm_b0_camvid
Cost:      prototypes of the three training videos, once; 2500 iterations of 8 target frames
Expected:  no figure of CFFM++ is published (docs/real_videos.md)
"""

import b1_camvid_pp

from cffm_jax.config import Config
from cffm_jax.rules import with_changes


def get_config() -> Config:
    changes = [("workdir", "runs/cffmpp_b0_camvid"), ("model.name", "cffmpp_b0")]
    return with_changes(b1_camvid_pp.get_config(), changes)
