"""CFFM++ with MiT-B1 on Cityscapes: b1_vspw_pp on snippets of which one frame is labelled.

Command:   python train.py --config configs/b1_cityscapes_pp.py --init.model runs/cffm_b1_cityscapes
Cost:      prototypes of all training snippets, once; 40k iterations of 8 target frames
Expected:  mIoU 75.7 (CFFM++ paper, Table 3)
"""

import dataclasses

import b1_cityscapes
import b1_vspw_pp

from cffm_jax.config import Config


def get_config() -> Config:
    base = b1_vspw_pp.get_config()
    first = b1_cityscapes.get_config()
    return dataclasses.replace(base, workdir="runs/cffmpp_b1_cityscapes", data=first.data)
