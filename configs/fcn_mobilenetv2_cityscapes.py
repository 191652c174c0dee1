"""FCN with MobileNetV2 on Cityscapes, by MMSegmentation's recipe.

Command:   python train.py --config configs/fcn_mobilenetv2_cityscapes.py --init.encoder mnv2.pth
Cost:      80k iterations of 8 crops of 512x1024
Expected:  mIoU 61.5 (MMSegmentation's figure, which the papers' Table 3 has)
"""

import dataclasses

import pspnet_mobilenetv2_cityscapes

from cffm_jax.config import Config


def get_config() -> Config:
    base = pspnet_mobilenetv2_cityscapes.get_config()
    model = dataclasses.replace(base.model, name="fcn_mobilenetv2")
    return dataclasses.replace(base, workdir="runs/fcn_mobilenetv2_cityscapes", model=model)
