"""CFFM with MiT-B0 on Cityscapes: b1_cityscapes with another backbone.

Command:   python train.py --config configs/b0_cityscapes.py --init.encoder mit_b0.pth
Cost:      160k iterations of 8 clips of 512x1024
Expected:  mIoU 74.0 (CFFM++ paper, Table 3)
"""

import dataclasses

import b1_cityscapes

from cffm_jax.config import Config


def get_config() -> Config:
    base = b1_cityscapes.get_config()
    model = dataclasses.replace(base.model, name="cffm_b0")
    return dataclasses.replace(base, workdir="runs/cffm_b0_cityscapes", model=model)
