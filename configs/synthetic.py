"""CFFM with MiT-B0 on the built-in videos, from scratch, on two CPU cores.

Command:   make demo, or: python -m cffm_jax.data.synthetic data/synthetic
                          python train.py --config configs/synthetic.py
Cost:      some minutes on 2 cores
Expected:  see docs/demo.md
"""

from cffm_jax.config import Config, DataConfig, EvalConfig, ModelConfig, OptimConfig, TrainConfig


def get_config() -> Config:
    return Config(
        workdir="runs/synthetic",
        model=ModelConfig(name="cffm_b0", num_classes=8, drop_path=0.0),
        data=DataConfig(root="data/synthetic", frame_size=(96, 160), ratio=(0.8, 1.5), crop=(96, 96)),
        optim=OptimConfig(rate=1e-3, head_multiplier=1.0, warmup_steps=20),
        train=TrainConfig(steps=450, batch_size=8, log_every=10, eval_every=0, checkpoint_every=150),
        eval=EvalConfig(chunk=8),
    )
