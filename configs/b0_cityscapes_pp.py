"""CFFM++ with MiT-B0 on Cityscapes: b1_cityscapes_pp with another backbone.

Command:   python train.py --config configs/b0_cityscapes_pp.py --init.model runs/cffm_b0_cityscapes
Cost:      prototypes of all training snippets, once; 40k iterations of 8 target frames
Expected:  mIoU 74.3 (CFFM++ paper, Table 3)
"""

import dataclasses

import b1_cityscapes_pp

from cffm_jax.config import Config


def get_config() -> Config:
    base = b1_cityscapes_pp.get_config()
    model = dataclasses.replace(base.model, name="cffmpp_b0")
    return dataclasses.replace(base, workdir="runs/cffmpp_b0_cityscapes", model=model)
