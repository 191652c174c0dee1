"""Masks of any video: python predict.py video.mp4 --checkpoint runs/cffm_b1_vspw"""

import sys

from cffm_jax.commands import predict_command
from cffm_jax.memory import use_huge_pages
from cffm_jax.settings import run_command

if __name__ == "__main__":
    use_huge_pages()
    sys.exit(run_command(predict_command))
