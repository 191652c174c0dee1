"""A system after clockwork convnets (CC), FCN with ResNet-101, on Cityscapes.

Command:   python train.py --config configs/cc_r101_cityscapes.py --init.encoder resnet101_v1c.pth
Cost:      80k iterations of 8 clips of two frames, 512x1024
Expected:  not known; the papers' Table 3 has mIoU 67.7 for CC itself, on other networks
"""

import dataclasses

import pspnet_mobilenetv2_cityscapes

from cffm_jax.config import Config


def get_config() -> Config:
    base = pspnet_mobilenetv2_cityscapes.get_config()
    return dataclasses.replace(
        base,
        workdir="runs/cc_r101_cityscapes",
        # One reference: the frame before, whose upper score the target has.
        model=dataclasses.replace(base.model, name="cc_r101", receptive=(49,), pooling=(7,)),
        data=dataclasses.replace(base.data, offsets=(1,)),
    )
