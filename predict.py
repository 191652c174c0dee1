"""Masks of any video: python predict.py video.mp4 --checkpoint runs/cffm_b1_vspw"""

from cffm_jax.commands.predict import predict_command
from cffm_jax.runtime.command_line import leave, run_command
from cffm_jax.runtime.memory import use_huge_pages

if __name__ == "__main__":
    use_huge_pages()
    leave(run_command(predict_command))
