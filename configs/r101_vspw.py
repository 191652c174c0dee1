"""CFFM with ResNet-101 on VSPW: b1_vspw with another backbone.

Command:   python train.py --config configs/r101_vspw.py --init.encoder resnet101_v1c.pth
Cost:      160k iterations of 8 clips
Expected:  not in the papers, whose backbones are MiT
"""

import dataclasses

import b1_vspw

from cffm_jax.config import Config


def get_config() -> Config:
    base = b1_vspw.get_config()
    model = dataclasses.replace(base.model, name="cffm_r101")
    return dataclasses.replace(base, workdir="runs/cffm_r101_vspw", model=model)
