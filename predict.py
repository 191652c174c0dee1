"""Masks of any video: python predict.py video.mp4 --checkpoint runs/cffm_b1_vspw"""

from cffm_jax.commands.predict import main

if __name__ == "__main__":
    main()
