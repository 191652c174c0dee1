"""A small network, and what its streams are."""

import cv2

from cffm_jax.config import Config, DataConfig, EvalConfig, ModelConfig, PrototypeConfig
from cffm_jax.data.layouts.video import Video
from cffm_jax.data.layouts.vspw import CODING
from cffm_jax.models.create import create_model

from helpers.drawn import lively

SIZE, CLASSES, LENGTH = (60, 90), 5, 13
CONFIG = Config(
    model=ModelConfig("cffmpp_b0", CLASSES),
    data=DataConfig(frame_size=(60, 90), threads=1, offsets=(5, 3, 1)),
    prototypes=PrototypeConfig(count=6),
    eval=EvalConfig(chunk=LENGTH, prototypes="causal"),
)


def made(name, **settings):
    model = create_model(name, CLASSES, **{"depths": (1, 1, 1, 1), **settings})
    return model, lively(model)


def written(frames, folder):
    """A video of frames u8[T,H,W,3], written into a folder."""
    paths = [str(folder / f"{i:02}.png") for i in range(len(frames))]
    for path, frame in zip(paths, frames):
        cv2.imwrite(path, frame[..., ::-1])
    return Video("v", tuple(paths), (), CODING)
