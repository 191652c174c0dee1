"""Prints the document: ``python -m cffm_jax.tables > docs/tables.md``."""

import sys

from cffm_jax.runtime.command_line import run_command
from cffm_jax.tables.document import main

if __name__ == "__main__":
    sys.exit(run_command(main))
