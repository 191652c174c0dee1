"""MiT against NVlabs', Hugging Face's and MMSegmentation's of the same files (pytest -m reference)."""

import numpy as np
import pytest

from helpers import golden_values
from helpers.reference import (
    FRAMES,
    KINDS,
    agree,
    converted,
    drawn,
    golden_input,
    maps,
    nhwc,
    save_as,
    segformer_config,
    theirs,
    torch,
    transformers,
)  # fmt: skip

pytestmark = pytest.mark.reference


@pytest.mark.parametrize("kind", KINDS)
def test_nvlabs_mit(tmp_path, kind):
    case = "mit_b0"
    state_dict = {key.removeprefix("backbone."): value for key, value in golden_values.state_dict(case).items()}
    head = {"head.weight": np.ones((1000, 256), np.float32), "head.bias": np.ones(1000, np.float32)}
    weights = converted(save_as(kind, state_dict | head, tmp_path), tmp_path)
    assert weights.origin.startswith("NVlabs MiT")
    for ours, name in zip(
        maps(weights, golden_input(case).transpose(0, 2, 3, 1)), ("c1", "c2", "c3", "c4"), strict=True
    ):
        agree(np.asarray(ours), golden_values.arrays(case)[name].transpose(0, 2, 3, 1), 1e-5)


def test_huggingface_encoder(tmp_path):
    model = drawn(transformers.SegformerForImageClassification(segformer_config("b1")))
    model.save_pretrained(tmp_path / "model")
    weights = converted(tmp_path / "model", tmp_path)
    with torch.no_grad():
        images = torch.from_numpy(FRAMES.transpose(0, 3, 1, 2).copy())
        expected = model(images, output_hidden_states=True).hidden_states
    for ours, map_ in zip(maps(weights), expected, strict=True):
        agree(np.asarray(ours), nhwc(map_))


def test_mmsegmentation_encoder(tmp_path):
    from helpers.mmsegmentation import Encoder

    model = drawn(Encoder("b1"))
    torch.save(model.state_dict(), tmp_path / "mit_b1.pth")
    weights = converted(tmp_path / "mit_b1.pth", tmp_path)
    assert weights.origin == "MMSegmentation MiT"
    for ours, expected in zip(maps(weights), theirs(model), strict=True):
        agree(np.asarray(ours), nhwc(expected))
