"""CFFM with MiT-B2 on VSPW: b1_vspw with another backbone.

Command:   python train.py --config configs/b2_vspw.py --init.encoder mit_b2.pth
Cost:      160k iterations of 8 clips
Expected:  mIoU 44.9, weighted IoU 64.9, mVC8 89.8, mVC16 85.8 (CFFM++ paper, Table 1)
"""

import dataclasses

import b1_vspw

from cffm_jax.config import Config


def get_config() -> Config:
    base = b1_vspw.get_config()
    model = dataclasses.replace(base.model, name="cffm_b2")
    return dataclasses.replace(base, workdir="runs/cffm_b2_vspw", model=model)
