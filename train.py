"""Trains a model: python train.py --config configs/b1_vspw.py"""

import sys

from cffm_jax.commands.train import train_command
from cffm_jax.runtime.command_line import run_command
from cffm_jax.runtime.memory import use_huge_pages

if __name__ == "__main__":
    use_huge_pages()
    sys.exit(run_command(train_command))
