"""CFFM with ConvNeXt-T on VSPW: b1_vspw with another backbone.

Command:   python train.py --config configs/convnext_tiny_vspw.py
           --init.encoder convnext_tiny_1k_224_ema.pth
Cost:      160k iterations of 8 clips
Expected:  not in the papers
"""

import dataclasses

import b1_vspw

from cffm_jax.config import Config


def get_config() -> Config:
    base = b1_vspw.get_config()
    model = dataclasses.replace(base.model, name="cffm_convnext_tiny")
    return dataclasses.replace(base, workdir="runs/cffm_convnext_tiny_vspw", model=model)
