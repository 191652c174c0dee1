"""Converts weights: python convert.py mit_b1.pth mit_b1.safetensors; python convert.py --inspect
FILE"""

from cffm_jax.commands.convert import main

if __name__ == "__main__":
    main()
