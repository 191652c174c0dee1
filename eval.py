"""Evaluates a checkpoint: python eval.py --checkpoint runs/cffm_b1_vspw --config configs/b1_vspw.py"""

import sys

from cffm_jax.commands import eval_command
from cffm_jax.memory import use_huge_pages
from cffm_jax.settings import run_command

if __name__ == "__main__":
    use_huge_pages()
    sys.exit(run_command(eval_command))
