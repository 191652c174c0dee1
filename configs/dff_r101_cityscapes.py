"""A system after DFF, PSPNet with ResNet-101 and RAFT small, on Cityscapes.

Command:   python train.py --config configs/dff_r101_cityscapes.py \\
               --init.encoder resnet101_v1c.pth --init.flow raft_small.pth
Cost:      80k iterations of 8 clips of two frames, 512x1024
Expected:  not known; the papers' Table 3 has mIoU 68.7 for DFF itself, on other networks
"""

import dataclasses

import pspnet_mobilenetv2_cityscapes

from cffm_jax.config import Config


def get_config() -> Config:
    base = pspnet_mobilenetv2_cityscapes.get_config()
    return dataclasses.replace(
        base,
        workdir="runs/dff_r101_cityscapes",
        # One reference, the key frame, as far away as it is in the mean.
        model=dataclasses.replace(
            base.model, name="dff_r101", flow="raft_small", flow_updates=12, receptive=(49,), pooling=(7,)
        ),
        data=dataclasses.replace(base.data, offsets=(2,)),
    )
