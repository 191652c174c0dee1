"""CFFM++ with MiT-B2 on VSPW: b1_vspw_pp with another backbone.

Command:   python train.py --config configs/b2_vspw_pp.py --init.model runs/cffm_b2_vspw
Cost:      40k iterations of 8 target frames
Expected:  mIoU 45.5, weighted IoU 64.7, mVC8 90.2, mVC16 86.4 (CFFM++ paper, Table 1)
"""

import dataclasses

import b1_vspw_pp

from cffm_jax.config import Config


def get_config() -> Config:
    base = b1_vspw_pp.get_config()
    model = dataclasses.replace(base.model, name="cffmpp_b2")
    return dataclasses.replace(base, workdir="runs/cffmpp_b2_vspw", model=model)
