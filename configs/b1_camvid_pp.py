"""CFFM++ with MiT-B1 on CamVid: b1_vspw_pp in an evening.

Command:   python train.py --config configs/b1_camvid_pp.py --init.model runs/cffm_b1_camvid
Cost:      prototypes of the three training videos, once; 2500 iterations of 8 target frames
Expected:  no figure of CFFM++ is published (docs/real_videos.md)
"""

import dataclasses

import b1_camvid
import b1_vspw_pp

from cffm_jax.config import Config
from cffm_jax.rules import with_changes


def get_config() -> Config:
    changes = [
        ("workdir", "runs/cffmpp_b1_camvid"),
        # A quarter of CFFM's, as on VSPW.
        ("train.steps", 2_500),
        ("train.eval_every", 0),
        ("optim.warmup_steps", 125),
    ]
    base = with_changes(b1_vspw_pp.get_config(), changes)
    return dataclasses.replace(base, data=b1_camvid.get_config().data)
