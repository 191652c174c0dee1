"""CFFM with MiT-B1 on Cityscapes: b1_vspw on snippets of which one frame is labelled.

Command:   python train.py --config configs/b1_cityscapes.py --init.encoder mit_b1.pth
Cost:      160k iterations of 8 clips of 512x1024; each reads four frames of 1024x2048 as PNG: give
           the loader --data.workers; leftImg8bit_sequence takes 324 GB on disk
Expected:  mIoU 75.1 (CFFM++ paper, Table 3); without the labels of all frames there is no
           video consistency
"""

import dataclasses

import b1_vspw

from cffm_jax.config import Config


def get_config() -> Config:
    base = b1_vspw.get_config()
    return dataclasses.replace(
        base,
        workdir="runs/cffm_b1_cityscapes",
        data=dataclasses.replace(
            base.data,
            root="data/cityscapes",
            layout="cityscapes",
            frame_size=(512, 1024),
            crop=(512, 1024),
            # The labelled frame is always the 20th: read backwards, its references would be frames
            # that no evaluation reads, of a car that drives backwards.
            reverse=0.0,
        ),
    )
