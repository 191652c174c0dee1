"""A system after Accel-18, PSPNet with ResNet-101 and ResNet-18, and RAFT small, on Cityscapes.

Command:   python train.py --config configs/accel_r101_cityscapes.py \\
               --init.model pspnet_r101.pth --init.flow raft_small.pth
Cost:      80k iterations of 8 clips of three frames, 512x1024; PSPNet stays as it is
Expected:  not known; the papers' Table 3 has mIoU 72.1 for Accel itself, on other networks
"""

import dataclasses

import dff_r101_cityscapes

from cffm_jax.config import Config, InitConfig


def get_config() -> Config:
    base = dff_r101_cityscapes.get_config()
    return dataclasses.replace(
        base,
        workdir="runs/accel_r101_cityscapes",
        # Two references: the key frame, and the frame that its features are warped through.
        model=dataclasses.replace(base.model, name="accel_r101", receptive=(49, 20), pooling=(7, 4)),
        data=dataclasses.replace(base.data, offsets=(2, 1)),
        init=InitConfig(),
    )
