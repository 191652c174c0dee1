"""Evaluates a checkpoint: python eval.py --checkpoint runs/cffm_b1_vspw --config configs/b1_vspw.py"""

import sys

from cffm_jax.commands.evaluate import eval_command
from cffm_jax.runtime.command_line import run_command
from cffm_jax.runtime.memory import use_huge_pages

if __name__ == "__main__":
    use_huge_pages()
    sys.exit(run_command(eval_command))
