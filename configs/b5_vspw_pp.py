"""CFFM++ with MiT-B5 on VSPW: b1_vspw_pp with another backbone.

Command:   python train.py --config configs/b5_vspw_pp.py --init.model runs/cffm_b5_vspw
Cost:      40k iterations of 8 target frames
Expected:  mIoU 50.1, weighted IoU 66.5, mVC8 90.8, mVC16 87.4 (CFFM++ paper, Table 1)
"""

import dataclasses

import b1_vspw_pp

from cffm_jax.config import Config


def get_config() -> Config:
    base = b1_vspw_pp.get_config()
    model = dataclasses.replace(base.model, name="cffmpp_b5")
    return dataclasses.replace(base, workdir="runs/cffmpp_b5_vspw", model=model)
