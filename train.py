"""Trains a model: python train.py --config configs/b1_vspw.py"""

from cffm_jax.commands.train import main

if __name__ == "__main__":
    main()
