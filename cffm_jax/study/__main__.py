"""``python -m cffm_jax.study``, see ``command.py``."""

import sys

from cffm_jax.runtime.command_line import run_command
from cffm_jax.study.command import main

if __name__ == "__main__":
    sys.exit(run_command(main))
