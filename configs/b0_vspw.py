"""CFFM with MiT-B0 on VSPW: b1_vspw with another backbone.

Command:   python train.py --config configs/b0_vspw.py --init.encoder mit_b0.pth
Cost:      160k iterations of 8 clips
Expected:  mIoU 35.4, weighted IoU 58.5, mVC8 87.7, mVC16 82.9 (CFFM++ paper, Table 1)
"""

import dataclasses

import b1_vspw

from cffm_jax.config import Config


def get_config() -> Config:
    base = b1_vspw.get_config()
    model = dataclasses.replace(base.model, name="cffm_b0")
    return dataclasses.replace(base, workdir="runs/cffm_b0_vspw", model=model)
