"""ETC on PSPNet-18 in the form of its own code beside a network of torch (pytest -m reference)."""

import jax
import numpy as np
import pytest

import cffm_jax
from cffm_jax.weights.naming.match import convert_state_dict, export_state_dict

from helpers.drawn import lively
from helpers.reference import torch

pytestmark = pytest.mark.reference

SMALL = {"flow": "raft_small", "flow_updates": 1, "receptive": (7,), "pooling": (7,)}


def network():
    """From the description, by the names of ETC's code."""
    nn, functional = torch.nn, torch.nn.functional

    def conv_norm(n_in, n_out, side=1, stride=1, dilation=1):
        conv = nn.Conv2d(n_in, n_out, side, stride, side // 2 * dilation, dilation, bias=False)
        return conv, nn.BatchNorm2d(n_out)

    class Block(nn.Module):
        def __init__(self, n_in, n_out, stride, dilation):
            super().__init__()
            self.conv1, self.bn1 = conv_norm(n_in, n_out, 3, stride)
            self.conv2, self.bn2 = conv_norm(n_out, n_out, 3, 1, dilation)
            self.downsample = nn.Sequential(*conv_norm(n_in, n_out, 1, stride)) if n_in != n_out else nn.Identity()

        def forward(self, x):
            y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
            return functional.relu(y + self.downsample(x))

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer0 = nn.Sequential(*conv_norm(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
            n_in = 64
            for i, (n, stride, dilation) in enumerate(((64, 1, 1), (128, 2, 1), (256, 1, 2), (512, 1, 4)), 1):
                setattr(self, f"layer{i}", nn.Sequential(Block(n_in, n, stride, dilation), Block(n, n, 1, dilation)))
                n_in = n
            self.ppm = nn.Module()
            self.ppm.features = nn.ModuleList(
                nn.Sequential(nn.AdaptiveAvgPool2d(side), *conv_norm(512, 128)) for side in (1, 2, 3, 6)
            )
            self.cls, self.aux = (
                nn.Sequential(*conv_norm(n, 256, 3), nn.ReLU(), nn.Dropout2d(0.1), nn.Conv2d(256, 19, 1))
                for n in (1024, 256)
            )

        def forward(self, x):
            third = self.layer3(self.layer2(self.layer1(self.layer0(x))))
            x = self.layer4(third)
            levels = [functional.relu(pool(x)) for pool in self.ppm.features]
            levels = [functional.interpolate(y, x.shape[2:], mode="bilinear", align_corners=True) for y in levels]
            return self.cls(torch.cat([x, *levels], 1)), self.aux(third)

    return Network().eval()


def test_logits_beside_torch():
    ours, theirs = cffm_jax.create_model("etc_psp_r18", 19, form="etc", **SMALL), network()
    flow = {key: x for key, x in export_state_dict(lively(ours), ours).items() if key.startswith("raft.")}
    variables = convert_state_dict(flow | {key: x.numpy() for key, x in theirs.state_dict().items()}, ours)
    frames = np.random.default_rng(0).standard_normal((1, 49, 65, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(frames.transpose(0, 3, 1, 2).copy()))
    both = jax.jit(lambda v, x: ours.apply(v, x, method=lambda m, x: m.head_logits(m.encode_stages(x))))
    for found, wanted in zip(both(variables, frames), expected, strict=True):
        wanted = wanted.numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
