"""ResNet and MobileNetV2 against torchvision's, from the same weights (pytest -m reference)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cffm_jax
from cffm_jax.models.methods.image_head import ImageHead

from helpers.reference import torch
from helpers.torchvision_networks import network

pytestmark = pytest.mark.reference
FRAMES = np.random.default_rng(0).standard_normal((2, 65, 97, 3)).astype(np.float32)
DILATED = {"replace_stride_with_dilation": [False, True, True]}


@pytest.mark.parametrize(
    ("theirs", "settings", "name"),
    [
        ("resnet18", {}, "upernet_r18_plain"),
        ("resnet50", DILATED, "pspnet_r50_plain"),
        ("resnet101", {}, "upernet_r101_plain"),
        ("mobilenet_v2", {}, "upernet_mobilenetv2"),
    ],
)
def test_maps_of_torchvision(theirs, settings, name):
    module = "resnet" if theirs.startswith("resnet") else "mobilenetv2"
    reference = network(f"models.{module}", theirs, **settings)
    model = cffm_jax.create_model(name, 7)
    assert isinstance(model, ImageHead)
    arrays = {key: value.numpy() for key, value in reference.state_dict().items()}
    variables = cffm_jax.convert_state_dict(arrays, model, part="encoder")
    ours = jax.jit(lambda v, x: model.apply(v, x, method="encode_stages"))(variables, jnp.asarray(FRAMES))
    expected = []
    with torch.no_grad():
        x = torch.from_numpy(FRAMES.transpose(0, 3, 1, 2).copy())
        if module == "resnet":
            x = reference.maxpool(reference.relu(reference.bn1(reference.conv1(x))))
            for layer in (reference.layer1, reference.layer2, reference.layer3, reference.layer4):
                x = layer(x)
                expected.append(x)
        else:
            for i, layer in enumerate(reference.features[:18]):
                x = layer(x)
                expected += [x] if i in (3, 6, 13, 17) else []
    for found, wanted in zip(ours, expected, strict=True):
        wanted = wanted.numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
