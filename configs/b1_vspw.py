"""CFFM with MiT-B1 on VSPW, the papers' main setting.

Command:   python train.py --config configs/b1_vspw.py --init.encoder mit_b1.pth
Cost:      160k iterations of 8 clips (the papers: 4 GPUs x 2 clips)
Expected:  mIoU 38.5, weighted IoU 60.0, mVC8 88.6, mVC16 84.1 (CFFM++ paper, Table 1)
"""

from cffm_jax.config import REQUIRED, Config, InitConfig


def get_config() -> Config:
    return Config(init=InitConfig(encoder=REQUIRED))
