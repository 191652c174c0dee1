"""CFFM++ with MiT-B0 on VSPW: b1_vspw_pp with another backbone.

Command:   python train.py --config configs/b0_vspw_pp.py --init.model runs/cffm_b0_vspw
Cost:      40k iterations of 8 target frames
Expected:  mIoU 35.9, weighted IoU 58.9, mVC8 88.4, mVC16 83.8 (CFFM++ paper, Table 1)
"""

import dataclasses

import b1_vspw_pp

from cffm_jax.config import Config


def get_config() -> Config:
    base = b1_vspw_pp.get_config()
    model = dataclasses.replace(base.model, name="cffmpp_b0")
    return dataclasses.replace(base, workdir="runs/cffmpp_b0_vspw", model=model)
