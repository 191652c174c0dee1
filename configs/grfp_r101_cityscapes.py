"""A system after GRFP, PSPNet with ResNet-101 and RAFT small, on Cityscapes.

Command:   python train.py --config configs/grfp_r101_cityscapes.py \\
               --init.model pspnet_r101.pth --init.flow raft_small.pth
Cost:      10k iterations of 8 clips of five frames, 512x512; PSPNet stays as it is
Expected:  not known; the papers' Table 3 has mIoU 69.4 for GRFP itself, on other networks
"""

import dataclasses

import accel_r101_cityscapes

from cffm_jax.config import Config, OptimConfig, TrainConfig


def get_config() -> Config:
    base = accel_r101_cityscapes.get_config()
    return dataclasses.replace(
        base,
        workdir="runs/grfp_r101_cityscapes",
        model=dataclasses.replace(base.model, name="grfp_r101", receptive=(49, 20, 6, 6), pooling=(7, 4, 2, 2)),
        data=dataclasses.replace(base.data, offsets=(4, 3, 2, 1), crop=(512, 512)),
        # A rate that stays as it is: the authors' Adam.
        optim=OptimConfig(
            rate=2e-5, head_multiplier=1.0, betas=(0.95, 0.99), weight_decay=0.0, warmup_steps=0, power=0.0
        ),
        train=TrainConfig(steps=10_000, eval_every=0),
    )
