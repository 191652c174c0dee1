"""Trains a model: python train.py --config configs/b1_vspw.py"""

import sys

from cffm_jax.commands import train_command
from cffm_jax.memory import use_huge_pages
from cffm_jax.settings import run_command

if __name__ == "__main__":
    use_huge_pages()
    sys.exit(run_command(train_command))
