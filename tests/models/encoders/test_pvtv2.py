"""PVTv2 against Hugging Face's, in all four maps and from its files (pytest -m reference)."""

import numpy as np
import pytest

from helpers.reference import (
    CLASSES,
    STAGES,
    agree,
    assert_same_maps,
    converted,
    drawn,
    maps,
    maps_of,
    nhwc,
    theirs,
    transformers,
)  # fmt: skip

pytestmark = pytest.mark.reference

PVTV2 = (
    (r"encoder\.layers\.(\d)\.patch_embedding\.proj", "patch_embed{after}.proj"),
    (r"encoder\.layers\.(\d)\.patch_embedding\.layer_norm", "patch_embed{after}.norm"),
    (r"encoder\.layers\.(\d)\.layer_norm", "norm{after}"),
    (r"encoder\.layers\.(\d)\.blocks\.(\d+)\.layer_norm_([12])", "block{after}.{1}.norm{2}"),
    (r"encoder\.layers\.(\d)\.blocks\.(\d+)\.attention\.query", "block{after}.{1}.attn.q"),
    (r"encoder\.layers\.(\d)\.blocks\.(\d+)\.attention\.(kv|proj)", "block{after}.{1}.attn.{2}"),
    (r"encoder\.layers\.(\d)\.blocks\.(\d+)\.attention\.spatial_reduction", "block{after}.{1}.attn.sr"),
    (r"encoder\.layers\.(\d)\.blocks\.(\d+)\.attention\.layer_norm", "block{after}.{1}.attn.norm"),
    (r"encoder\.layers\.(\d)\.blocks\.(\d+)\.mlp\.dense([12])", "block{after}.{1}.mlp.fc{2}"),
    (r"encoder\.layers\.(\d)\.blocks\.(\d+)\.mlp\.dwconv\.dwconv", "block{after}.{1}.mlp.dwconv.dwconv"),
)


def test_pvtv2_gives_the_maps_of_huggingface():
    network = transformers.PvtV2Backbone(transformers.PvtV2Config(out_features=STAGES))  # B0's sizes by default.
    assert_same_maps(*maps_of(network, "pvtv2_b0", PVTV2, lambda key: "patch_embedding" in key or "attention" in key))


def test_huggingface_pvt(tmp_path):
    config = transformers.PvtV2Config(out_features=STAGES, num_labels=CLASSES)
    model = drawn(transformers.PvtV2ForImageClassification(config))
    model.save_pretrained(tmp_path / "model")
    weights = converted(tmp_path / "model", tmp_path)
    backbone = transformers.PvtV2Backbone(config).eval()
    backbone.load_state_dict({k.removeprefix("pvt_v2."): v for k, v in model.pvt_v2.state_dict().items()})
    for ours, expected in zip(maps(weights), theirs(backbone).feature_maps, strict=True):
        agree(np.asarray(ours), nhwc(expected))
