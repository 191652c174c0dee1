"""CFFM++ with MiT-B1 on VSPW: global temporal contexts on top of a trained CFFM, the second paper's
main setting.

Command:   python train.py --config configs/b1_vspw_pp.py --init.model runs/cffm_b1_vspw
Cost:      prototypes of all training videos, once; 40k iterations of 8 target frames, of which the
           global blocks and their classifier alone learn
Expected:  mIoU 39.9, weighted IoU 60.7, mVC8 89.1, mVC16 84.9 (CFFM++ paper, Table 1)
"""

import dataclasses

import b1_vspw

from cffm_jax.config import Config


def get_config() -> Config:
    base = b1_vspw.get_config()
    return dataclasses.replace(
        base,
        workdir="runs/cffmpp_b1_vspw",
        model=dataclasses.replace(base.model, name="cffmpp_b1"),
        # The paper gives one rate for what is trained (section 5.1).
        optim=dataclasses.replace(base.optim, rate=2e-4, head_multiplier=1.0),
        train=dataclasses.replace(base.train, steps=40_000, eval_every=8_000),
    )
