"""TCB ST-OCR-Mem with ResNet-101 on VSPW: tcb_ppm_r101_vspw with another head.

Command:   python train.py --config configs/tcb_ocr_mem_r101_vspw.py --init.encoder resnet101.pth
Cost:      42k iterations of 8 clips of four frames
Expected:  mIoU 37.8, weighted IoU 59.5, mVC8 87.9, mVC16 84.0 (CFFM++ paper, Table 1)
"""

import dataclasses

import tcb_ppm_r101_vspw

from cffm_jax.config import Config


def get_config() -> Config:
    base = tcb_ppm_r101_vspw.get_config()
    model = dataclasses.replace(base.model, name="tcb_ocr_mem_r101")
    return dataclasses.replace(base, workdir="runs/tcb_ocr_mem_r101_vspw", model=model)
