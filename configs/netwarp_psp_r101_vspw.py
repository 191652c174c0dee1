"""NetWarp on PSPNet with ResNet-101 on VSPW, by the recipe of the VSPW baselines' video systems.

Command:   python train.py --config configs/netwarp_psp_r101_vspw.py \\
               --init.encoder resnet101.pth --init.flow raft_large.pth
Cost:      42k iterations of 8 clips of two frames, and their optical flow
Expected:  mIoU 37.0, weighted IoU 57.9, mVC8 84.4, mVC16 79.4 (CFFM++ paper, Table 1)
"""

import dataclasses

import etc_psp_r101_vspw

from cffm_jax.config import Config


def get_config() -> Config:
    base = etc_psp_r101_vspw.get_config()
    model = dataclasses.replace(base.model, name="netwarp_psp_r101")
    return dataclasses.replace(base, workdir="runs/netwarp_psp_r101_vspw", model=model)
