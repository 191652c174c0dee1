"""DeepLabv3+ with ResNet-101 on VSPW: pspnet_r101_vspw with another head.

Command:   python train.py --config configs/deeplabv3plus_r101_vspw.py --init.encoder resnet101.pth
Cost:      42k iterations of 8 clips, whose four frames are samples of their own
Expected:  mIoU 34.7, weighted IoU 58.8, mVC8 83.2, mVC16 78.2 (CFFM++ paper, Table 1)
"""

import dataclasses

import pspnet_r101_vspw

from cffm_jax.config import Config


def get_config() -> Config:
    base = pspnet_r101_vspw.get_config()
    model = dataclasses.replace(base.model, name="deeplabv3plus_r101")
    return dataclasses.replace(base, workdir="runs/deeplabv3plus_r101_vspw", model=model)
