"""ST-PPM (after TCB, CVPR 2021) with MiT-B1 on VSPW: b1_vspw with another method.

Command:   python train.py --config configs/stppm_b1_vspw.py --init.encoder mit_b1.pth
Cost:      160k iterations of 8 clips
Expected:  not in the papers, whose ST-PPM has a dilated ResNet-101
"""

import dataclasses

import b1_vspw

from cffm_jax.config import Config


def get_config() -> Config:
    base = b1_vspw.get_config()
    model = dataclasses.replace(base.model, name="stppm_b1")
    return dataclasses.replace(base, workdir="runs/stppm_b1_vspw", model=model)
