"""CFFM with MiT-B5 on VSPW: b1_vspw with another backbone.

Command:   python train.py --config configs/b5_vspw.py --init.encoder mit_b5.pth
Cost:      160k iterations of 8 clips
Expected:  mIoU 49.3, weighted IoU 65.8, mVC8 90.8, mVC16 87.1 (CFFM++ paper, Table 1)
"""

import dataclasses

import b1_vspw

from cffm_jax.config import Config


def get_config() -> Config:
    base = b1_vspw.get_config()
    model = dataclasses.replace(base.model, name="cffm_b5")
    return dataclasses.replace(base, workdir="runs/cffm_b5_vspw", model=model)
