"""CFFM with MiT-B4 on VSPW: b1_vspw with another backbone.

Command:   python train.py --config configs/b4_vspw.py --init.encoder mit_b4.pth
Cost:      160k iterations of 8 clips
Expected:  not reported in the papers
"""

import dataclasses

import b1_vspw

from cffm_jax.config import Config


def get_config() -> Config:
    base = b1_vspw.get_config()
    model = dataclasses.replace(base.model, name="cffm_b4")
    return dataclasses.replace(base, workdir="runs/cffm_b4_vspw", model=model)
