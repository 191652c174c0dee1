"""CFFM with PVTv2-B1 on VSPW: b1_vspw with another backbone.

Command:   python train.py --config configs/pvtv2_b1_vspw.py --init.encoder pvt_v2_b1.pth
Cost:      160k iterations of 8 clips
Expected:  not in the papers
"""

import dataclasses

import b1_vspw

from cffm_jax.config import Config


def get_config() -> Config:
    base = b1_vspw.get_config()
    model = dataclasses.replace(base.model, name="cffm_pvtv2_b1")
    return dataclasses.replace(base, workdir="runs/cffm_pvtv2_b1_vspw", model=model)
