"""PSPNet with ResNet-101 on VSPW, by the recipe of the VSPW baselines' image systems.

Command:   python train.py --config configs/pspnet_r101_vspw.py --init.encoder resnet101.pth
Cost:      42k iterations of 8 clips, whose four frames are samples of their own
Expected:  mIoU 36.5, weighted IoU 58.1, mVC8 84.2, mVC16 79.6 (CFFM++ paper, Table 1)
"""

from cffm_jax.config import REQUIRED, Config, DataConfig, InitConfig, LossConfig, ModelConfig, OptimConfig, TrainConfig


def get_config() -> Config:
    return Config(
        workdir="runs/pspnet_r101_vspw",
        model=ModelConfig(name="pspnet_r101", form="vspw"),
        data=DataConfig(
            offsets=(9, 7, 4),
            samples="frames",
            reverse=0.0,
            ratios=(0.8, 1.0, 1.5, 2.0),
            crop=(479, 479),
            padding="around",
            max_class_share=1.0,
            distort=0.0,
        ),
        optim=OptimConfig(
            kind="sgd", rate=0.002, head_multiplier=1.0, weight_decay=1e-4, decay="but_norms_and_biases",
            warmup_steps=0, power=0.9,
        ),
        loss=LossConfig(resized="log_probabilities", mean="labelled"),
        init=InitConfig(encoder=REQUIRED),
        train=TrainConfig(steps=42_000),
    )  # fmt: skip
