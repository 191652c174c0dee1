"""CFFM++ with MiT-B0 on DAVIS 2016: b0_camvid_pp on other data.

Command:   python train.py --config configs/b0_davis_pp.py --init.model runs/cffm_b0_davis
Cost:      prototypes of all training videos, once; 2500 iterations of 8 target frames
Expected:  no published figures: the classes are this package's (docs/real_videos.md)
"""

import dataclasses

import b0_camvid_pp
import b0_davis

from cffm_jax.config import Config


def get_config() -> Config:
    base = b0_camvid_pp.get_config()
    return dataclasses.replace(base, workdir="runs/cffmpp_b0_davis", data=b0_davis.get_config().data)
