"""Masks of any video: python predict.py video.mp4 --checkpoint runs/cffm_b1_vspw"""

from cffm_jax.commands import predict_command
from cffm_jax.memory import use_huge_pages
from cffm_jax.settings import leave, run_command

if __name__ == "__main__":
    use_huge_pages()
    leave(run_command(predict_command))
