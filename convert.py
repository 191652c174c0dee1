"""Converts weights: python convert.py mit_b1.pth mit_b1.safetensors; python convert.py --inspect FILE"""

import sys

from cffm_jax.commands.convert import convert_command
from cffm_jax.runtime.command_line import run_command

if __name__ == "__main__":
    sys.exit(run_command(convert_command))
