"""ETC on PSPNet with ResNet-101 on VSPW, by the recipe of the VSPW baselines' video systems.

Command:   python train.py --config configs/etc_psp_r101_vspw.py \\
               --init.encoder resnet101.pth --init.flow raft_large.pth
Cost:      42k iterations of 8 clips of two frames, and their optical flow
Expected:  mIoU 36.6, weighted IoU 58.3, mVC8 84.1, mVC16 79.2 (CFFM++ paper, Table 1)
"""

import dataclasses

import tcb_ppm_r101_vspw

from cffm_jax.config import Config


def get_config() -> Config:
    base = tcb_ppm_r101_vspw.get_config()
    return dataclasses.replace(
        base,
        workdir="runs/etc_psp_r101_vspw",
        # One reference: the frame before.
        model=dataclasses.replace(base.model, name="etc_psp_r101", receptive=(49,), pooling=(7,)),
        data=dataclasses.replace(base.data, offsets=(1,), reverse=0.0),
    )
