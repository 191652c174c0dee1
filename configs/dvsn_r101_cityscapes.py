"""A system after DVSN, PSPNet with ResNet-101 and RAFT small, on Cityscapes.

Command:   python train.py --config configs/dvsn_r101_cityscapes.py \\
               --init.model pspnet_r101.pth --init.flow raft_small.pth
Cost:      10k iterations of 8 clips of two frames, 512x1024; PSPNet stays as it is
Expected:  not known; the papers' Table 3 has mIoU 70.3 for DVSN itself, on other networks
"""

import dataclasses

import dff_r101_cityscapes

from cffm_jax.config import Config, InitConfig, OptimConfig, TrainConfig


def get_config() -> Config:
    base = dff_r101_cityscapes.get_config()
    return dataclasses.replace(
        base,
        workdir="runs/dvsn_r101_cityscapes",
        model=dataclasses.replace(base.model, name="dvsn_r101"),
        data=dataclasses.replace(base.data, offsets=(4,)),
        # Ours: of the authors' training no more than the losses is known here.
        optim=OptimConfig(rate=1e-4, head_multiplier=1.0, weight_decay=0.0, warmup_steps=0),
        init=InitConfig(),
        train=TrainConfig(steps=10_000, eval_every=0),
    )
