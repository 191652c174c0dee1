"""PSPNet with MobileNetV2 on Cityscapes, by MMSegmentation's recipe.

Command:   python train.py --config configs/pspnet_mobilenetv2_cityscapes.py --init.encoder mnv2.pth
Cost:      80k iterations of 8 crops of 512x1024
Expected:  mIoU 70.2 (MMSegmentation's figure, which the papers' Table 3 has)
"""

from cffm_jax.config import REQUIRED, Config, DataConfig, InitConfig, ModelConfig, OptimConfig, TrainConfig


def get_config() -> Config:
    return Config(
        workdir="runs/pspnet_mobilenetv2_cityscapes",
        model=ModelConfig(name="pspnet_mobilenetv2"),
        data=DataConfig(
            root="data/cityscapes", layout="cityscapes", frame_size=(1024, 2048), crop=(512, 1024), reverse=0.0
        ),
        optim=OptimConfig(
            kind="sgd", rate=0.01, least_rate=1e-4, head_multiplier=1.0, weight_decay=5e-4, decay="all",
            warmup_steps=0, power=0.9,
        ),
        init=InitConfig(encoder=REQUIRED),
        train=TrainConfig(steps=80_000),
    )  # fmt: skip
