"""OCRNet with ResNet-101 on VSPW: pspnet_r101_vspw with another head.

Command:   python train.py --config configs/ocrnet_r101_vspw.py --init.encoder resnet101.pth
Cost:      42k iterations of 8 clips, whose four frames are samples of their own
Expected:  mIoU 36.7, weighted IoU 59.2, mVC8 84.0, mVC16 79.0 (CFFM++ paper, Table 1)
"""

import dataclasses

import pspnet_r101_vspw

from cffm_jax.config import Config


def get_config() -> Config:
    base = pspnet_r101_vspw.get_config()
    model = dataclasses.replace(base.model, name="ocrnet_r101")
    return dataclasses.replace(base, workdir="runs/ocrnet_r101_vspw", model=model)
