"""Evaluates a checkpoint: python eval.py --checkpoint runs/cffm_b1_vspw --config
configs/b1_vspw.py"""

from cffm_jax.commands.eval import main

if __name__ == "__main__":
    main()
