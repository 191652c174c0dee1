"""TCB ST-PPM with ResNet-101 on VSPW, by the recipe of the VSPW baselines' video systems.

Command:   python train.py --config configs/tcb_ppm_r101_vspw.py --init.encoder resnet101.pth
Cost:      42k iterations of 8 clips of four frames
Expected:  mIoU 37.5, weighted IoU 58.6, mVC8 87.0, mVC16 82.1 (CFFM++ paper, Table 1)
"""

import dataclasses

import pspnet_r101_vspw

from cffm_jax.config import Config


def get_config() -> Config:
    base = pspnet_r101_vspw.get_config()
    return dataclasses.replace(
        base,
        workdir="runs/tcb_ppm_r101_vspw",
        model=dataclasses.replace(base.model, name="tcb_ppm_r101"),
        data=dataclasses.replace(base.data, offsets=(9, 6, 3), samples="clips", reverse=0.5),
        # The encoder's rate is a tenth of the head's.
        optim=dataclasses.replace(base.optim, rate=0.0002, head_multiplier=10.0, decay="but_biases"),
    )
