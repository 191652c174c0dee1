"""CFFM with MiT-B1 on CamVid: b1_vspw in an evening.

Command:   python train.py --config configs/b1_camvid.py --init.encoder mit_b1.pth
Cost:      10k iterations of 8 clips of 352x480: under three hours at a second each
Expected:  no figure of CFFM is published; for orientation SegNet 60.1 mIoU, ENet 51.3
           (docs/real_videos.md)
"""

import b1_vspw

from cffm_jax.config import Config
from cffm_jax.rules import with_changes


def get_config() -> Config:
    changes = [
        ("workdir", "runs/cffm_b1_camvid"),
        ("data.root", "data/camvid"),
        ("data.layout", "folder"),
        # As published figures are. It is evaluated at the end alone, so that it chooses nothing.
        ("data.eval_split", "test"),
        ("train.eval_every", 0),
        # Labelled frames are a second apart: the papers' 9 6 3, of 15 frames a second, are less
        # than that.
        ("data.offsets", (3, 2, 1)),
        # Published figures are of 360x480, in which no larger multiples of 32 fit.
        ("data.frame_size", (360, 480)),
        ("data.crop", (352, 480)),
        # Each of 367 labelled frames is a target 218 times, one of VSPW's six times.
        ("train.steps", 10_000),
        ("optim.warmup_steps", 500),
    ]
    return with_changes(b1_vspw.get_config(), changes)
