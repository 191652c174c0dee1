"""``python -m cffm_jax.data.import_labels``, see ``command.py``."""

import sys

from cffm_jax.data.import_labels.command import main
from cffm_jax.runtime.command_line import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))
