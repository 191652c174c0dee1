"""ETC on PSPNet with ResNet-18 on Cityscapes, by its authors' recipe as far as it is known here.

Command:   python train.py --config configs/etc_psp_r18_cityscapes.py \\
               --init.encoder resnet18.pth --init.flow raft_small.pth
Cost:      74k iterations of 8 clips of two frames, 769x769, and their optical flow
Expected:  not known; the authors' code has mIoU 71.7 with the motion loss and 73.1 with
           distillation (--train.teacher, but for its ConvLSTM), the papers' Table 3 71.1
"""

import dataclasses

import pspnet_mobilenetv2_cityscapes

from cffm_jax.config import Config, ModelConfig


def get_config() -> Config:
    base = pspnet_mobilenetv2_cityscapes.get_config()
    return dataclasses.replace(
        base,
        workdir="runs/etc_psp_r18_cityscapes",
        # One reference: the frame before, or after. RAFT small in the place of FlowNet2.
        model=ModelConfig(
            name="etc_psp_r18", form="etc", flow="raft_small", flow_updates=12, warp="exact",
            receptive=(49,), pooling=(7,),
        ),
        data=dataclasses.replace(base.data, crop=(769, 769), offsets=(1,), reverse=0.5),
        optim=dataclasses.replace(base.optim, head_multiplier=10.0),
        train=dataclasses.replace(base.train, steps=74_375),  # 200 epochs of 2975.
    )  # fmt: skip
